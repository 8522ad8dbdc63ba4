"""What grows with the number of experiments: a sweep's plan, the report over recorded runs, and MLflow's first page.

    python benchmarks/growth.py [--number 10000] [--parts plan report page] [--seeds 5]

Each part runs in a process of its own, which tells its seconds, those of its processor (imports too: on a busy machine
they tell more) and its peak of memory in MiB. `plan`: what `--plan`
prints for a sweep of `number` experiments on the embedded digits, `--seeds` of each setting. `report`: what
`src/report.py` does, over as many synthetic runs, written straight into the tables of a local database with the
parameters, tags and metrics of a real one. `page`: the query of the first page that MLflow shows of them. Times of half
the number stand beside, since what is quadratic takes four times as long and not twice.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

METHODS = ("ssc", "magnitude", "l1_filters", "lr_s2")
EPOCHS = 3  # of which each run has a row of metrics
PAGE = 100  # runs on MLflow's first page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        began = time.process_time()
        seconds = PARTS[options.part](options.folder, options.number, options.seeds)
        used = {"processor": time.process_time() - began}
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "MiB": memory} | used))
        return
    found = []
    for number in (options.number // 2, options.number):
        with tempfile.TemporaryDirectory() as folder:
            if {"report", "page"} & {*options.parts}:
                record(Path(folder), number, options.seeds)
            for part in options.parts:
                own = ["--part", part, "--folder", folder, "--number", str(number), "--seeds", str(options.seeds)]
                ended = subprocess.run([sys.executable, __file__, *own], capture_output=True, text=True, check=True)
                found.append({"part": part, "number": number} | json.loads(ended.stdout.splitlines()[-1]))
                line = "{part:7} {number:6}  {seconds:7.2f} s  {processor:7.2f} s of the processor  {MiB:6.0f} MiB"
                print(line.format(**found[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def plan(folder: Path, number: int, seeds: int) -> float:
    """Plan a sweep of `number` experiments of one model; imports are not timed."""
    from paredown.sweep.planning import plan as planned
    from paredown.sweep.spec import load
    from paredown.sweep.terminal import show_plan

    settings = -(-number // seeds)
    rates = [round(0.01 + 0.001 * place, 6) for place in range(-(-settings // 8))]
    sparsities = [0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
    text = {"sparsity": sparsities, "recipe.learning_rate": rates}
    lines = ["overrides: [dataset=digits, model=resnet20, method=ssc, recipe.epochs=2]"]
    lines += [f"grid: {json.dumps(text)}", f"seeds: {list(range(seeds))}"]
    (folder / "grow.yaml").write_text("\n".join(lines))
    started = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        show_plan(planned(load([f"sweep={folder}/grow.yaml", f"output={folder}/out"])))
    return time.perf_counter() - started


def report(folder: Path, number: int, seeds: int) -> float:
    """Write and show the report over the recorded runs; imports are timed, as whoever asks waits for them."""
    started = time.perf_counter()
    from paredown.report.publish import refresh
    from paredown.report.request import parse
    from paredown.report.terminal import show

    with contextlib.redirect_stdout(io.StringIO()):
        show(*refresh(parse([f"output={folder}/out", "model=resnet20", f"folder={folder}/report"])))
    return time.perf_counter() - started


def page(folder: Path, number: int, seeds: int) -> float:
    """Ask for the runs that MLflow shows first: of all experiments those of the fewest MACs, with all their records."""
    from paredown.tracking.client import check_uri, connect

    client = connect(str(check_uri(f"sqlite:///{folder}/out/mlflow.db")))
    experiment = client.get_experiment_by_name("paredown").experiment_id
    query = {"filter_string": "tags.kind = 'experiment'", "order_by": ["metrics.`cost/macs` ASC"], "max_results": PAGE}
    client.search_runs([experiment], **{**query, "max_results": 1})  # connects and compiles
    started = time.perf_counter()
    assert len(client.search_runs([experiment], **query)) == PAGE
    return time.perf_counter() - started


PARTS = {"plan": plan, "report": report, "page": page}


def record(folder: Path, number: int, seeds: int) -> None:
    """Write `number` finished runs into a new database: a run of MLflow's own client takes 30 ms."""
    from paredown.tracking.client import check_uri, connect, get_experiment

    uri = str(check_uri(f"sqlite:///{folder}/out/mlflow.db"))
    client = connect(uri)
    experiment = get_experiment(client, uri, "paredown")
    with sqlite3.connect(folder / "out" / "mlflow.db") as database:
        for table, columns, rows in _tables(number, seeds, experiment.experiment_id):
            marks = ", ".join("?" * len(columns))
            database.executemany(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", rows)


def _tables(number: int, seeds: int, experiment: str) -> Iterator[tuple[str, list[str], list[tuple[Any, ...]]]]:
    """Yield rows of MLflow's tables, a thousand runs at a time."""
    draw, params = random.Random(0), _params()
    for start in range(0, number, 1000):
        rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in COLUMNS}
        for place in range(start, min(start + 1000, number)):
            _run(rows, place, seeds, experiment, params, draw)
        for table, found in rows.items():
            yield table, COLUMNS[table], found


COLUMNS = {
    "runs": [
        *("run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time"),
        *("end_time", "source_version", "lifecycle_stage", "artifact_uri", "experiment_id"),
    ],
    "params": ["run_uuid", "key", "value"],
    "tags": ["run_uuid", "key", "value"],
    "metrics": ["run_uuid", "key", "value", "timestamp", "step", "is_nan"],
    "latest_metrics": ["run_uuid", "key", "value", "timestamp", "step", "is_nan"],
}


def _params() -> dict[str, str]:
    """Return the parameters that a run on digits records."""
    from paredown.core.config import compose
    from paredown.tracking.tracker import flatten

    return dict(flatten(compose(["dataset=digits", "model=resnet20", "method=ssc", "sparsity=0.9"])))


def _run(
    rows: dict[str, list[tuple[Any, ...]]],
    place: int,
    seeds: int,
    experiment: str,
    params: dict[str, str],
    draw: random.Random,
) -> None:
    """Add the run number `place`: of each setting `seeds` in turn."""
    setting, seed = divmod(place, seeds)
    method, run = METHODS[setting % len(METHODS)], f"{place:032x}"
    speed_up = 1.5 + (setting * 0.37) % 8
    rate = f"{0.01 + 0.0001 * setting:.4f}"
    top1 = 95 - 1.5 * speed_up + draw.gauss(0, 0.4)
    name, start = f"{method}-resnet20-digits-{setting}-seed={seed}", 1_750_000_000_000 + place
    rows["runs"].append(
        (
            run,
            name,
            "LOCAL",
            "",
            "",
            "user",
            "FINISHED",
            start,
            start + 60_000,
            "",
            "active",
            f"file:///{run}",
            experiment,
        )
    )
    keys = [f"{place:019x}a", f"{place:019x}b"]
    entry = {"images": 5000, "other_images": 0, "epochs": EPOCHS, "seconds": 10.0, "macs": 1e9}
    tags = {
        **{"kind": "experiment", "method": method, "model": "resnet20", "dataset": "digits", "recipe": "digits"},
        **{"debug": "None", "device": "cpu", "code": "1", "seed": str(seed), "target": f"speed_up={speed_up:.3g}"},
        **{"stage/0_edit": keys[0], "stage/1_train": keys[1], "mlflow.runName": name},
        "price": json.dumps([{"key": key} | entry for key in keys]),
    }
    own = {"seed": str(seed), "recipe.learning_rate": rate, "speed_up": f"{speed_up:.3g}", "method._target_": method}
    rows["params"] += [(run, key, value) for key, value in (params | own).items()]
    rows["tags"] += [(run, key, value) for key, value in tags.items()]
    final = {"final/top1": top1, "final/top5": 99.0, "cost/macs": 4e7 / speed_up, "cost/dense_macs": 4e7}
    final |= {"cost/speed_up": speed_up, "cost/params": 2e5, "cost/dense_params": 2.7e5, "cost/sparsity": 0.5}
    final |= {"latency/ms": 2.0, "latency/dense_ms": 4.0, "latency/speed_up": 2.0, "price/macs": 2e9}
    final |= {f"price/{name}": 1.0 for name in ("images", "other_images", "epochs", "seconds")}
    per_epoch = {f"{split}/{name}": 1.0 for split in ("train", "val", "test") for name in ("loss", "top1", "top5")}
    for epoch in range(EPOCHS):
        rows["metrics"] += [(run, key, value, start + epoch, epoch, 0) for key, value in per_epoch.items()]
    rows["metrics"] += [(run, key, value, start + EPOCHS, EPOCHS, 0) for key, value in final.items()]
    rows["latest_metrics"] += [(run, key, v, start + EPOCHS, EPOCHS, 0) for key, v in (per_epoch | final).items()]


if __name__ == "__main__":
    main()
