"""What a sweep costs beyond its training: time to the first trial, per trial, a replay, and memory.

    python benchmarks/sweep.py [--address HOST:PORT] [--trials 20] [--parts start trials replay plain]

Every part runs in a process of its own, on the embedded digits. `start`: seconds from the command to the first trial,
the data set decoded before. `trials`: experiments that train next to nothing, in reused actors and not. `plain`: trials
that do nothing, through our searcher and through plain Ray Tune, and ones that import Lightning, through ours.
`replay`: a finished sweep of 200 experiments, asked for again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SWEEP = ROOT / "src" / "sweep.py"
FILE = """
overrides: [dataset=digits, model=resnet20, model.depth=8, dataset.fraction=0.05, recipe.epochs=1, method=dense,
  latency.seconds=0.001]
grid: {seed: [SEEDS]}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", help="of a running Ray; without it each part starts its own")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--parts", nargs="+", default=["start", "trials", "plain", "replay"])
    options = parser.parse_args()
    cluster = ["cluster=ray", f"cluster.address={options.address}"] if options.address else []
    with tempfile.TemporaryDirectory() as folder:
        for part in options.parts:
            for line in PARTS[part](Path(folder), cluster, options.trials):
                print(json.dumps({"part": part} | line), flush=True)


def start(folder: Path, cluster: list[str], trials: int) -> list[dict]:
    command, output = _command(folder / "start", 1, cluster)
    subprocess.run([*command, "--plan"], check=True, **_quiet())
    began = time.perf_counter()
    with subprocess.Popen(command, **_quiet()) as process:
        seconds = {}
        for name, there in (
            ("handed to Ray (s)", lambda: list(output.glob("experiments/*/.lock"))),
            ("trial entered (s)", _in_a_trial),
            ("first record of a trial (s)", lambda: list(output.glob("experiments/*/tracking"))),
        ):
            while not there():
                if process.poll() is not None:
                    raise SystemExit(f"the sweep ended too early: {' '.join(command)}")
                time.sleep(0.05)
            seconds[name] = round(time.perf_counter() - began, 1)
        memory = _memory(process.pid)
    return [seconds | {"memory (GB)": memory}]


def trials(folder: Path, cluster: list[str], count: int) -> list[dict]:
    return [
        {"reuse_actors": reuse, "trials": count, "seconds": _timed(folder / f"trials-{reuse}", count, cluster, reuse)}
        for reuse in ("true", "false")
    ]


def replay(folder: Path, cluster: list[str], _: int) -> list[dict]:
    first = _timed(folder / "replay", 200, cluster, "true")
    return [{"trials": 200, "first (s)": first, "again (s)": _timed(folder / "replay", 200, cluster, "true")}]


def plain(folder: Path, cluster: list[str], count: int) -> list[dict]:
    return [json.loads(_in_process(kind, count)) for kind in ("ours", "tune", "ours, with Lightning")]


def _in_process(kind: str, count: int) -> str:
    code = f"import runpy; runpy.run_path({__file__!r})['nothing']({kind!r}, {count})"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()[
        -1
    ]


def nothing(kind: str, count: int) -> None:
    """Trials that do nothing, or import Lightning, by our searcher or by Tune's own, with the same settings."""
    sys.path.insert(0, str(ROOT / "src"))
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT / "src")}
    import ray
    from ray import tune

    from paredown.sweep import driver, searcher
    from paredown.sweep.planning import plan
    from paredown.sweep.progress import Progress
    from paredown.sweep.spec import load

    os.environ |= driver.ENVIRONMENT | {"TUNE_MAX_PENDING_TRIALS_PG": "2"}  # as the driver does on two CPUs
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.yaml").write_text(FILE.replace("SEEDS", ", ".join(map(str, range(count)))))
        progress = Progress(plan(load([f"sweep={folder}/a.yaml", f"output={folder}/out", "tracking=off"])))
        search = searcher.StageSearcher(progress)
        search.on_trial_complete = lambda trial_id, result=None, error=False: progress.finish(
            search.trials[trial_id], {}, []
        )

        def trial(settings: dict) -> None:
            if "Lightning" in kind:
                import pytorch_lightning  # noqa: F401
            tune.report({"result": "{}", "trained": []})

        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", num_cpus=2)
        ours = kind.startswith("ours")
        began = time.perf_counter()
        tune.Tuner(
            tune.with_resources(trial, {"cpu": 1}),
            param_space={} if ours else {"seed": tune.grid_search(list(range(count)))},
            tune_config=tune.TuneConfig(
                reuse_actors=True, **({"search_alg": search, "num_samples": count} if ours else {})
            ),
            run_config=tune.RunConfig(storage_path=f"{folder}/tune", verbose=0),
        ).fit()
        print(json.dumps({"searcher": kind, "trials": count, "seconds": round(time.perf_counter() - began, 2)}))


def _timed(folder: Path, count: int, cluster: list[str], reuse: str) -> float:
    command, _ = _command(folder, count, [*cluster, f"reuse_actors={reuse}"])
    began = time.perf_counter()
    subprocess.run(command, check=True, **_quiet())
    return round(time.perf_counter() - began, 1)


def _command(folder: Path, count: int, more: list[str]) -> tuple[list[str], Path]:
    folder.mkdir(exist_ok=True)
    (folder / "bench.yaml").write_text(FILE.replace("SEEDS", ", ".join(map(str, range(count)))))
    output = folder / "out"
    return [sys.executable, str(SWEEP), f"sweep={folder}/bench.yaml", f"output={output}", *more], output


def _in_a_trial() -> bool:
    """Whether a process of this machine is inside a trial: Ray names it so. Nobody else may sweep meanwhile."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::ImplicitFunc.train"):
                return True
        except OSError:
            continue
    return False


def _quiet() -> dict:
    return {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def _memory(pid: int) -> float:
    """Proportional memory of `pid` and all below it, in gigabytes."""
    total = 0
    for process in [pid, *_below(pid)]:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(total / 1e6, 2)


def _below(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    except OSError:
        return []
    return [*children, *(other for child in children for other in _below(child))]


PARTS = {"start": start, "trials": trials, "plain": plain, "replay": replay}

if __name__ == "__main__":
    main()
