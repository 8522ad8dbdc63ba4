"""The recorded runs of a request, out of MLflow: one row per finished experiment, named by its setting."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from paredown.errors import UserError, nearest
from paredown.report.naming import CONTROL, controlled, identity, label, labels, varied
from paredown.report.request import Request
from paredown.tracking.client import SQLITE, check_uri, connect, database_path, outages_as, public
from paredown.tracking.view import CERTIFIED, run_link

if TYPE_CHECKING:
    import pandas
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENTS, LISTING = "tags.kind = 'experiment'", "sweep.json"
LOCAL_SERVER = "http://127.0.0.1:5000"  # where `make dashboard` shows a local database


@dataclass
class Recorded:
    """`runs`: a row per finished run with `run_id`, `name`, `link`, `setting`, `method`, `model`, `dataset`, `seed`,
    `control` and `of` (its kind, and the setting that it stands beside; '' for others), `knobs` (what tells the setting
    from others of its method), `params`, `stages` (name: key), `price` (None, or an entry per stage) and the `metrics`.
    `parent` is the sweep's run, `missing` what a reader must know is not there."""

    runs: pandas.DataFrame
    metrics: list[str]
    parent: str | None = None
    missing: list[str] = field(default_factory=list)


def store_of(request: Request) -> str:
    """The URI of the records. UserError where no local database is."""
    uri = check_uri(request.uri) or check_uri(f"{SQLITE}{request.output}/mlflow.db")
    if uri and uri.startswith(SQLITE) and not database_path(uri).is_file():
        raise UserError(f"nothing is recorded in {database_path(uri)}: give output=FOLDER or tracking.uri=URI")
    return str(uri)


def read(request: Request) -> Recorded:
    """The runs that `request` names. UserError where none is finished, names are unknown, or data sets are mixed."""
    uri = store_of(request)
    missing: list[str] = []
    with outages_as(UserError, f"{public(uri)} does not answer as an MLflow store: "):
        client = connect(uri)
        found, parent = _search(client, request, missing)
    missing += _unfinished(found)
    done = [run for run in found if run.info.status == "FINISHED"]
    if not done:
        said = f" ({'; '.join(missing)})" if missing else ""
        raise UserError(f"{request.title}: no run is finished yet{said}")
    done = _without_debug(_certified(done, request, missing), request, missing)
    _require_one_data_set(done, request)
    server = LOCAL_SERVER if uri.startswith(SQLITE) else public(uri)
    metrics = sorted({name for run in done for name in run.data.metrics})
    return Recorded(_table(_once(done, missing), server), metrics, parent, missing)


def _search(client: MlflowClient, request: Request, missing: list[str]) -> tuple[list[Run], str | None]:
    if request.runs:
        return [_get(client, run) for run in request.runs], None
    wanted = {name: value for name in ("sweep", "dataset", "model") if (value := getattr(request, name))}
    found = _runs(client, EXPERIMENTS, wanted)
    parents = _runs(client, "tags.kind = 'sweep'", {"sweep": request.sweep}) if request.sweep else []
    parent = max(parents, key=lambda run: run.info.start_time, default=None)
    if parent:
        found += _elsewhere(client, parent, found, wanted, missing)
    if not found:
        _explain(client, wanted, bool(parent) and len(wanted) == 1)
    whole = parent and len(wanted) == 1  # a part of a sweep does not go on the whole one's page
    return found, parent.info.run_id if parent and whole else None


def _elsewhere(
    client: MlflowClient, parent: Run, found: list[Run], wanted: dict[str, str], missing: list[str]
) -> list[Run]:
    """The runs that the sweep lists in its sweep.json and that another sweep has tagged since: a run has one parent."""
    names = _listed(client, parent.info.run_id) - {run.info.run_name for run in found}
    if not names:
        return []
    others = {name: value for name, value in wanted.items() if name != "sweep"}
    runs = [run for run in _runs(client, EXPERIMENTS, others) if run.info.run_name in names]
    waiting = len(names - {run.info.run_name for run in runs})
    if waiting and not others:
        missing.append(f"experiments of the sweep that have not begun: {waiting}")
    return runs


def _listed(client: MlflowClient, parent: str) -> set[str]:
    if LISTING not in {artifact.path for artifact in client.list_artifacts(parent)}:
        return set()
    with tempfile.TemporaryDirectory() as folder:
        listing = json.loads(Path(client.download_artifacts(parent, LISTING, folder)).read_text())
    return {entry["folder"] for entry in listing["experiments"]}


def _runs(client: MlflowClient, base: str, tags: dict[str, str]) -> list[Run]:
    text = " and ".join([base, *(f"tags.`{name}` = '{value}'" for name, value in tags.items())])
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(experiments, text, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def _get(client: MlflowClient, run: str) -> Run:
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_run(run)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        raise UserError(f"no run {run!r} is recorded: give ids as MLflow shows them") from error
    if found.data.tags.get("kind") != "experiment":
        raise UserError(f"run {run} is no experiment but {found.data.tags.get('kind', 'another kind of run')}")
    return found


def _explain(client: MlflowClient, wanted: dict[str, str], started: bool) -> None:
    """Why nothing was found, as a UserError."""
    if started:
        raise UserError(f"{wanted['sweep']}: no run of this sweep is finished yet")
    every = _runs(client, "tags.kind != 'none'", {})
    for name, value in wanted.items():
        known = {run.data.tags[name] for run in every if name in run.data.tags}
        if value not in known:
            raise UserError(f"nothing is recorded of {name} {value!r}: {nearest(value, known)}")
    raise UserError(
        f"nothing is recorded of {' and '.join(f'{name} {value}' for name, value in wanted.items())} together"
    )


def _unfinished(found: Iterable[Run]) -> list[str]:
    counts = Counter(run.info.status.lower() for run in found if run.info.status != "FINISHED")
    listed = ", ".join(f"{number} {status}" for status, number in counts.items())
    return [f"runs not shown: {listed}"] if listed else []


def _certified(runs: list[Run], request: Request, missing: list[str]) -> list[Run]:
    """Where they alone are asked for, the runs whose network was exported and found equal to the trained one."""
    if not request.certified:
        return runs
    equal = [run for run in runs if run.data.tags.get(CERTIFIED)]
    if not equal:
        raise UserError(
            f"{request.title}: none of {len(runs)} runs is certified: python src/export.py run=ID does that"
        )
    if len(equal) < len(runs):
        missing.append(f"runs without a certificate, left out: {len(runs) - len(equal)}")
    return equal


def _without_debug(runs: list[Run], request: Request, missing: list[str]) -> list[Run]:
    """Debug runs mean nothing: of everything recorded they are left out, where they were asked for they are named."""
    real = [run for run in runs if run.data.tags.get("debug", "None") == "None"]
    if len(real) == len(runs):
        return runs
    if real and not (request.sweep or request.runs):
        missing.append(f"debug runs left out: {len(runs) - len(real)}")
        return real
    missing.append(f"debug runs among these, whose numbers mean nothing: {len(runs) - len(real)}")
    return runs


def _require_one_data_set(runs: Sequence[Run], request: Request) -> None:
    counts = Counter(run.data.tags.get("dataset", "unknown") for run in runs)
    if len(counts) > 1:
        listed = ", ".join(f"{name} ({number})" for name, number in counts.most_common())
        raise UserError(
            f"{request.title} has runs of several data sets, {listed}: one front needs one, give dataset=NAME"
        )


def _once(runs: Sequence[Run], missing: list[str]) -> list[Run]:
    """Each setting and seed once, the run that ended last: one recorded twice is no second seed."""
    latest: dict[tuple[str, str], Run] = {}
    for run in sorted(runs, key=lambda run: run.info.end_time or 0):
        latest[identity(run), run.data.tags.get("seed", "")] = run
    if len(latest) < len(runs):
        missing.append(f"settings and seeds recorded twice, the last is shown: {len(runs) - len(latest)}")
    return list(latest.values())


def _table(runs: Sequence[Run], server: str) -> pandas.DataFrame:
    import pandas

    knobs = varied(runs)
    names = labels({identity(run): label(run, knobs) for run in runs})
    rows = []
    for run in runs:
        tags, params = run.data.tags, run.data.params
        row = {
            "run_id": run.info.run_id,
            "name": run.info.run_name,
            "link": run_link(server, run.info.experiment_id, run.info.run_id),
            "setting": names[identity(run)],
            "seed": tags.get("seed", ""),
            "of": names.get(controlled(run), "") if tags.get(CONTROL) else "",
            "knobs": {name: params[name] for name in knobs[tags.get("method", "")] if name in params},
            "params": params,
            "stages": {name: key for name, key in tags.items() if name.startswith("stage/")},
            "price": json.loads(tags["price"]) if "price" in tags else None,
        }
        told = ("method", "model", "dataset", "target", "device", "debug", CONTROL)
        named = {name: tags.get(name, "") for name in told}
        rows.append(row | named | run.data.metrics)
    return pandas.DataFrame(rows)
