"""Storage of a bench: files in a folder, and artifacts and metrics of the MLflow run it belongs to."""

from __future__ import annotations

import json
from pathlib import Path

from paredown.bench import terminal
from paredown.bench.measure import Bench
from paredown.bench.subject import Subject
from paredown.core.errors import UserError
from paredown.core.files import write_text
from paredown.report.conditions import tags
from paredown.tracking.client import connect, outages_as, public

DATA, PAGE = "bench.json", "bench.html"


def write(bench: Bench, folder: Path) -> list[Path]:
    """Write the data and the page of figures into `folder` and return their paths. Raise UserError if that fails."""
    paths = [folder / DATA, folder / PAGE]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(paths[0], json.dumps(bench.data(), indent=1))
        write_text(paths[1], terminal.figures(bench))
    except OSError as error:
        raise UserError(f"cannot write the bench into {folder}: {error.strerror} (choose another: folder=)") from error
    return paths


def record(bench: Bench, paths: list[Path], subject: Subject) -> bool:
    """Log the files as artifacts of the subject's run, the metrics bench/... and, as tags, the conditions under which
    they were timed; return False if it has no run."""
    trained = subject.trained
    if not (trained and trained.uri and trained.run_id):
        return False
    with outages_as(UserError, f"{public(trained.uri)} does not take the bench: "):
        client = connect(trained.uri)
        for path in paths:
            client.log_artifact(trained.run_id, str(path))
        for name, value in metrics(bench).items():
            client.log_metric(trained.run_id, name, value)
        batches = [batch.batch for batch in bench.batches]
        for name, text in tags(batches, bench.threads, bench.deploy, bench.device, bench.quiet.quiet).items():
            client.set_tag(trained.run_id, name, text)
    return True


def metrics(bench: Bench) -> dict[str, float]:
    """Return the metrics by name: bench/speed_up_b32 (fp32), bench/speed_up_bf16_b32, bench/ms_b32, bench/dense_ms_b32
    and so on."""
    found = {}
    for batch in bench.batches:
        for one in batch.speed_ups:
            if one.dense == one.deployed:
                found[f"bench/speed_up{_suffix(one.dense)}_b{batch.batch}"] = one.value
        for time in batch.times:
            name = "ms" if time.network == "deployed" else "dense_ms"
            found[f"bench/{name}{_suffix(time.precision)}_b{batch.batch}"] = time.ms
    return found


def _suffix(precision: str) -> str:
    return "" if precision == "fp32" else f"_{precision}"
