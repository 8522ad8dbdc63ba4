"""How long a person waits: --help, --cfg job, the imports of a real run, and a finished experiment asked for again.

python benchmarks/start.py
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
from paredown import execute
import paredown.conclude, mlflow
started = time.perf_counter()
result = execute.run(sys.argv[1:])
assert result.reused
print(time.perf_counter() - started)
"""


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
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(options.rounds + 1):  # the first round warms the page cache
        for name, command in COMMANDS.items():
            found[name].append(seconds(command))
    middle = {name: statistics.median(times[1:]) for name, times in found.items()}
    middle["finished experiment again, work after imports"] = again(options.rounds)
    for name, value in middle.items():
        print(f"{name:46} {value:6.2f} s")
    if options.json:
        options.json.write_text(json.dumps(middle, indent=1))


if __name__ == "__main__":
    main()
