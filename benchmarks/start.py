"""How long a person waits: --help, --cfg job, the imports of a real run, the way of run.py to its first training step,
and a finished experiment asked for again.

python benchmarks/start.py [--rounds 3]

The first step is that of the decoded digits in a new output folder, and in one whose MLflow database was made before.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = str(Path(__file__).parents[1] / "src" / "run.py")
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "--help": [RUN, "--help"],
    "--cfg job": [RUN, "--cfg", "job", "method=ssc", "sparsity=0.9"],
    "import torch, pytorch_lightning": ["-c", "import torch, pytorch_lightning"],
}
AGAIN = """
import sys, time
from paredown.run import walk
import paredown.results.measure, mlflow
started = time.perf_counter()
result = walk.run(sys.argv[1:])
assert result.reused
print(time.perf_counter() - started)
"""


FIRST = """
import os, runpy, sys
from importlib.machinery import PathFinder
class Stopped:
    # ends the process in the first training step, without importing anything earlier than the run does
    def find_spec(self, name, path, target=None):
        if name != "paredown.training.module":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module
        def executed(module):
            execute(module)
            module.FitModule.training_step = lambda *_: (print(*sys.modules, flush=True), os._exit(0))
        spec.loader.exec_module = executed
        return spec
sys.meta_path.insert(0, Stopped())
sys.argv[0] = sys.argv.pop(1)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def first_step(rounds: int) -> dict[str, float]:
    """Seconds from the command to the first training step on digits, which were decoded before."""
    found: dict[str, list[float]] = {"first training step, new output": [], "first training step, used output": []}
    with tempfile.TemporaryDirectory() as folder:
        words = ["dataset=digits", "model=resnet20", "debug=fast", f"dataset.cache={folder}/cache"]
        subprocess.run([sys.executable, RUN, *words, f"output={folder}/used"], capture_output=True, check=True)
        for number in range(rounds):
            for times, output in zip(found.values(), (f"new{number}", "used"), strict=True):
                command = ["-c", FIRST, RUN, *words, f"output={folder}/{output}", f"seed={number + 1}"]
                times.append(seconds(command))
    return {name: statistics.median(times) for name, times in found.items()}


def seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *command], capture_output=True, check=True)
    return time.perf_counter() - started


def again(rounds: int) -> float:
    """Seconds of work after the imports for a finished experiment on digits, recorded in a local database."""
    with tempfile.TemporaryDirectory() as output:
        words = ["dataset=digits", "method=ssc", "sparsity=0.9", "debug=fast", f"output={output}"]
        subprocess.run([sys.executable, RUN, *words], capture_output=True, check=True)
        command = [sys.executable, "-c", AGAIN, *words]
        ended = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(rounds)]
    return statistics.median(float(process.stdout.splitlines()[-1]) for process in ended)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds + 1):  # the first round warms the page cache
        for name, command in COMMANDS.items():
            found[name].append(seconds(command))
    middle = {name: statistics.median(times[1:]) for name, times in found.items()}
    middle |= first_step(options.rounds)
    middle["finished experiment again, work after imports"] = again(options.rounds)
    for name, value in middle.items():
        print(f"{name:46} {value:6.2f} s")
    if options.json:
        options.json.write_text(json.dumps(middle, indent=1))


if __name__ == "__main__":
    main()
