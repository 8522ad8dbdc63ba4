"""The runs of a request as MLflow records them: one row per finished experiment, labelled by its setting."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from paredown.core.errors import UserError, nearest, printable
from paredown.report.conditions import BENCHED
from paredown.report.grouping import CONTROL, Described, controlled, described, identity, key, label, labels, varied
from paredown.report.layers import artifact
from paredown.report.request import Request
from paredown.report.training_cost import UNITS
from paredown.tracking.client import SQLITE, check_uri, connect, database_path, every_run, outages_as, public
from paredown.tracking.view import (
    CERTIFICATE,
    CERTIFIED,
    EXPERIMENTS,
    FOLDER,
    IMAGES,
    artifact_link,
    local_server,
    run_link,
)

if TYPE_CHECKING:
    import pandas
    from mlflow import MlflowClient
    from mlflow.entities import Run

LISTING = "sweep.json"
TAGS = ("method", "model", "dataset", "target", "device", "code", "debug", CONTROL)
COLUMNS = (  # of the table beside TAGS: a metric of such a name would replace them
    *("run_id", "name", "link", "certificate", "setting", "identity", "key", "seed", "of", "hyperparameters"),
    *("params", "stages", "price", "bench"),
)
LARGEST = 1e100  # of the costs of a stage: sums and squares of larger ones overflow
NO_DEBUG = "None"  # the tag of a run that is no debug run


@dataclass
class Recorded:
    """`runs`: a row per finished run with `run_id`, `name`, `link`, `certificate` (the address of its export's, or ''),
    `setting`, its `identity` and `key` (the same in every report), `method`, `model`, `dataset`, `seed`, `control`
    and `of` (kind of control and its setting; '' for others), `hyperparameters` (those that vary among the settings of
    its method), `params`, `stages` (name: key), `price` (training cost per stage, or None), `bench` (tags: the
    `conditions` of its bench's metrics) and `metrics`.
    `parent`: the sweep's run; `missing`: lines on data that a reader might expect and that is not shown."""

    runs: pandas.DataFrame
    metrics: list[str]
    parent: str | None = None
    missing: list[str] = field(default_factory=list)


def store_of(request: Request) -> str:
    """Return the URI of the records. Raise UserError if the local database does not exist."""
    uri = check_uri(request.uri) or check_uri(f"{SQLITE}{request.output}/mlflow.db")
    if uri and uri.startswith(SQLITE) and not database_path(uri).is_file():
        raise UserError(f"nothing is recorded in {database_path(uri)}: give output=FOLDER or tracking.uri=URI")
    return str(uri)


def read(request: Request, debug: bool = True) -> Recorded:
    """Read the runs of `request`, without `debug` leaving out all debug runs. Raise UserError if none is finished, a
    name is unknown or data sets are mixed."""
    uri = store_of(request)
    missing: list[str] = []
    with outages_as(UserError, f"{public(uri)} does not answer as an MLflow store: "):
        client = connect(uri)
        found, parent = _search(client, request, missing)
        for run in found:
            _make_printable(run)
    missing += _unfinished(found)
    done = [run for run in found if run.info.status == "FINISHED"]
    if not done:
        details = f" ({'; '.join(missing)})" if missing else ""
        raise UserError(f"{request.title}: no run is finished yet{details}")
    keep = debug and bool(request.sweep or request.runs)
    done = _without_debug(_certified(done, request, missing), keep, missing)
    if not (debug or any(map(_is_real, done))):
        raise UserError(f"{request.title} has only debug runs, whose numbers mean nothing")
    _require_one_data_set(done, request)
    server = local_server(database_path(uri).parent) if uri.startswith(SQLITE) else public(uri)
    metrics = sorted({name for run in done for name in run.data.metrics} - {*COLUMNS, *TAGS})
    return Recorded(_table(_once(done, missing), server), metrics, parent, missing)


def _make_printable(run: Run) -> None:
    """Replace control characters in the parameters and tags of `run`, which end in a terminal and on a page."""
    for values in (run.data.params, run.data.tags):
        printed = {printable(name): printable(value) for name, value in values.items()}
        values.clear()
        values.update(printed)


def _search(client: MlflowClient, request: Request, missing: list[str]) -> tuple[list[Run], str | None]:
    if request.runs:
        return [_get(client, run) for run in request.runs], None
    wanted = {name: value for name in ("sweep", "dataset", "model") if (value := getattr(request, name))}
    found = _runs(client, EXPERIMENTS, wanted)
    parents = _runs(client, "tags.kind = 'sweep'", {"sweep": request.sweep}) if request.sweep else []
    parent = max(parents, key=lambda run: run.info.start_time, default=None)
    if parent:
        found += _taken_over(client, parent, found, wanted, missing)
    if not found:
        _raise_not_found(client, wanted, bool(parent) and len(wanted) == 1)
    whole = parent and len(wanted) == 1  # a report on part of a sweep is not published on the sweep's page
    return found, parent.info.run_id if parent and whole else None


def _taken_over(
    client: MlflowClient, parent: Run, found: list[Run], wanted: dict[str, str], missing: list[str]
) -> list[Run]:
    """Find the runs that the sweep lists in its sweep.json but that a later sweep tagged as its own."""
    names = _listed(client, parent.info.run_id) - set(map(_folder, found))
    if not names:
        return []
    others = {name: value for name, value in wanted.items() if name != "sweep"}
    runs = [run for run in _runs(client, EXPERIMENTS, others) if _folder(run) in names]
    waiting = len(names - set(map(_folder, runs)))
    if waiting and not others:
        missing.append(f"experiments of the sweep that have not begun: {waiting}")
    return runs


def _folder(run: Run) -> str:
    return str(run.data.tags.get(FOLDER, run.info.run_name))  # older runs bear the name of their folder


def _listed(client: MlflowClient, parent: str) -> set[str]:
    remedy = "finish the sweep: it records the file again"
    listing: _Listing | None = artifact(client, parent, LISTING, _Listing, remedy)
    return {entry.folder for entry in listing.experiments} if listing else set()


@dataclass(frozen=True)
class _Listed:
    folder: str


@dataclass(frozen=True)
class _Listing:
    """What a report reads of the list of a sweep's experiments."""

    experiments: list[_Listed]


def _runs(client: MlflowClient, base: str, tags: dict[str, str]) -> list[Run]:
    text = " and ".join([base, *(f"tags.`{name}` = '{value}'" for name, value in tags.items())])
    return list(every_run(client, [experiment.experiment_id for experiment in client.search_experiments()], text))


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


def _raise_not_found(client: MlflowClient, wanted: dict[str, str], started: bool) -> None:
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
    """Select, if the request asks for it, the runs whose exported network was verified against the trained one."""
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


def _is_real(run: Run) -> bool:
    return bool(run.data.tags.get("debug", NO_DEBUG) == NO_DEBUG)


def _without_debug(runs: list[Run], keep: bool, missing: list[str]) -> list[Run]:
    """Drop debug runs from what has others, as reports on everything recorded; `keep` and report those of a sweep or
    named by id."""
    real = [run for run in runs if _is_real(run)]
    if len(real) == len(runs):
        return runs
    if real and not keep:
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
    contents = Counter(tag for run in runs if (tag := run.data.tags.get(IMAGES)))  # older versions recorded none
    if len(contents) > 1:
        known = f"{len(contents)} different sets of images are called {next(iter(counts))}"
        raise UserError(f"{request.title}: {known}, in {', '.join(map(str, contents.values()))} runs: give runs=[...]")


def _once(runs: Sequence[Run], missing: list[str]) -> list[Run]:
    """Keep the latest run of each setting and seed: a repeated run is not another seed."""
    latest: dict[tuple[str, str], Run] = {}
    for run in sorted(runs, key=lambda run: run.info.end_time or 0):
        latest[identity(_described(run)), run.data.tags.get("seed", "")] = run
    if len(latest) < len(runs):
        missing.append(f"settings and seeds recorded twice, the last is shown: {len(runs) - len(latest)}")
    return list(latest.values())


def _described(run: Run) -> Described:
    return described(run.data.tags, run.data.params)


def _price(tags: Mapping[str, str]) -> list[dict[str, float]] | None:
    """Return the training cost of each stage; None where it was not recorded, cut by MLflow as too long, or damaged."""
    try:
        found = json.loads(tags.get("price", "null"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(map(_is_price, found)) else None


def _is_price(entry: Any) -> bool:
    """Return whether `entry` is the training cost of a stage; an older version recorded no other images."""
    if not (isinstance(entry, dict) and isinstance(entry.get("key"), str) and {"epochs", "seconds"} <= entry.keys()):
        return False
    values = [entry[unit] for unit in UNITS if unit in entry]
    return all(type(value) in (int, float) and abs(value) < LARGEST for value in values)


def _table(runs: Sequence[Run], server: str) -> pandas.DataFrame:
    import pandas

    described_runs = [_described(run) for run in runs]
    varying = varied(described_runs)
    names = labels({identity(one): label(one, varying) for one in described_runs})
    rows = []
    for run, one in zip(runs, described_runs, strict=True):
        tags, params = run.data.tags, run.data.params
        place = run.info.experiment_id, run.info.run_id
        row = {
            "run_id": run.info.run_id,
            "name": printable(str(run.info.run_name)),
            "link": run_link(server, *place),
            "certificate": artifact_link(server, *place, CERTIFICATE) if tags.get(CERTIFIED) else "",
            "setting": names[identity(one)],
            "identity": identity(one),
            "key": key(identity(one)),
            "seed": tags.get("seed", ""),
            "of": names.get(controlled(one), "") if tags.get(CONTROL) else "",
            "hyperparameters": {name: params[name] for name in varying[tags.get("method", "")] if name in params},
            "params": params,
            "stages": {name: key for name, key in tags.items() if name.startswith("stage/")},
            "price": _price(tags),
            "bench": {name: text for name, text in tags.items() if name.startswith(BENCHED)},
        }
        tagged = {name: tags.get(name, "") for name in TAGS}
        rows.append(run.data.metrics | row | tagged)
    return pandas.DataFrame(rows)
