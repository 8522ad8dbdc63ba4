"""The search for a finished experiment by its MLflow run, its folder or a state, for export and bench."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import MinLen

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.files import read_json, read_plain, reading, typed_path
from paredown.core.layout import CONFIG, PLAN, RESULT, STATE
from paredown.core.network import Network
from paredown.core.paths import is_plain
from paredown.store.states import RECORD
from paredown.tracking.client import SQLITE, check_uri, connect, database_path, every_run, outages_as, public
from paredown.tracking.journal import FOLDER, Journal
from paredown.tracking.sender import Sender
from paredown.tracking.view import EXPERIMENTS
from paredown.tracking.view import FOLDER as FOLDER_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RECORDED_AGAIN = "delete result.json beside it: the same command records the experiment again"
log = logging.getLogger("paredown")
HINT = "give a run's id as MLflow shows it (its beginning is enough), or the folder of an experiment or a state"


@dataclass(frozen=True)
class Trained:
    """The trained `network` of the experiment `name`. `config` is the composed configuration (None for a state whose
    experiment is not beside it); `uri` and `run_id` name its MLflow run, where it has one."""

    name: str
    network: Network
    config: Mapping[str, Any] | None
    uri: str | None = None
    run_id: str | None = None

    @property
    def names(self) -> dict[str, str]:
        """The method, model and data set it was trained with, as far as they are known."""
        chosen = self.config["names"] if self.config else {}
        return {key: chosen[key] for key in ("method", "model", "dataset") if key in chosen}


def find(run: str, output: Path, uri: str | None = None) -> Trained:
    """Find the experiment that `run` names: an MLflow run id, or its unique beginning, in `uri` (None: the database in
    `output`), or a folder. UserError for one that is not there, is not finished, or is not to be read."""
    folder = typed_path(run)
    if folder.is_dir():
        return _in_folder(folder.resolve(), uri)
    if not re.fullmatch(r"[0-9a-f]{4,32}", run):
        if "/" in run:
            raise UserError(f"run={run}: there is no such folder: {HINT}")
        raise UserError(f"run={run} is neither a folder nor the id of a run: {HINT}")
    return _in_store(run, check_uri(uri) or f"{SQLITE}{output.absolute() / 'mlflow.db'}")


def _in_folder(folder: Path, uri: str | None) -> Trained:
    if (folder / FOLDER).is_dir():
        return _experiment(folder, uri)
    if not (folder / blueprint.ARCHITECTURE).is_file():
        unfinished = folder.suffix == ".unfinished"
        why = "never finished: run its command again" if unfinished else f"holds neither a state nor records: {HINT}"
        raise UserError(f"{folder} {why}")
    network = blueprint.read(folder)
    made = _maker(folder)
    if made is None:
        return Trained(folder.name, network, None)
    whole = _experiment(made, uri)  # the last state of the plan is the experiment's network, an earlier one is not
    last = _stage_keys(made / FOLDER / "files" / PLAN)[-1] == folder.name
    return whole if last else Trained(folder.name, network, whole.config)


def _experiment(folder: Path, uri: str | None) -> Trained:
    files = folder / FOLDER / "files"
    if not (folder / RESULT).is_file():
        raise UserError(f"{folder} never finished: run its command again, it goes on where it was stopped")
    config = _config(files / CONFIG)
    with reading(files / CONFIG, RECORDED_AGAIN):
        where = check_uri(uri) or _own_server(check_uri(config["tracking"]["uri"]), folder)
    run = Sender(Journal(folder), where).cursor.run_id if where else None
    return Trained(folder.name, blueprint.read(files / STATE), config, where if run else None, run)


def _own_server(recorded: str | None, folder: Path) -> str | None:
    """Return the output's database, to which a sweep sends what its workers, who name no server, record. Where the
    records in `folder` name another server, warn and return None: it would get this user's credentials because a file
    says so."""
    own = f"{SQLITE}{folder.absolute().parents[1] / 'mlflow.db'}"
    if recorded is None or recorded == own:
        return own
    log.warning("not recorded on %s, which %s names: add tracking.uri=%s", public(recorded), folder, public(recorded))
    return None


def _maker(state: Path) -> Path | None:
    """Find the finished experiment beside the store of `state` whose plan has it, one that ends with it first."""
    if not (state / RECORD).is_file():
        return None
    found = []
    for plan in sorted((state.parents[2] / "experiments").glob(f"*/{FOLDER}/files/{PLAN}")):
        keys = _stage_keys(plan)
        if state.name in keys and (plan.parents[2] / RESULT).is_file():
            found.append((keys[-1] != state.name, plan.parents[2]))
    return min(found)[1] if found else None


def _in_store(run: str, uri: str) -> Trained:
    if uri.startswith(SQLITE) and not database_path(uri).is_file():
        raise UserError(f"nothing is recorded in {database_path(uri)}: give output=FOLDER or tracking.uri=URI")
    with outages_as(UserError, f"{public(uri)} does not answer as an MLflow store: "):
        client = connect(uri)
        found = _only(run, list(_matching(client, run)))
        if found.info.status != "FINISHED":
            status = found.info.status.lower()
            raise UserError(f"run {found.info.run_id} ({found.info.run_name}) never finished, it is {status}")
        with tempfile.TemporaryDirectory() as place:
            config = _config(Path(client.download_artifacts(found.info.run_id, CONFIG, place)))
            network = blueprint.read(client.download_artifacts(found.info.run_id, STATE, place))
    name = str(found.data.tags.get(FOLDER_TAG, found.info.run_name))  # older runs bear the name of their folder
    if "/" in name or not is_plain(name):
        raise UserError(f"run {found.info.run_id} is called {name!r}, which is no name of a folder: rename it")
    return Trained(name, network, config, uri, found.info.run_id)


@dataclass(frozen=True)
class _Tracking:
    uri: str | None


@dataclass(frozen=True)
class _Config:
    """What is read of a recorded configuration, which has more."""

    names: dict[str, str | None]
    tracking: _Tracking
    dataset: dict[str, Any] = field(default_factory=dict)


def _config(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_plain(path, _Config, RECORDED_AGAIN)
    return found


@dataclass(frozen=True)
class _Planned:
    key: str


def _stage_keys(path: Path) -> list[str]:
    """Return the keys of the stages of a recorded plan, at least one. Raise UserError for a damaged file."""
    planned: list[_Planned] = read_json(path, Annotated[list[_Planned], MinLen(1)], RECORDED_AGAIN)
    return [entry.key for entry in planned]


def _only(run: str, found: list[Run]) -> Run:
    if not found:
        raise UserError(f"no run {run!r} is recorded: {HINT}")
    if len(found) > 1:
        listed = ", ".join(f"{one.info.run_id} ({one.info.run_name})" for one in found[:5])
        raise UserError(f"run {run!r} may be any of {len(found)}: {listed}")
    return found[0]


def _matching(client: MlflowClient, run: str) -> Iterator[Run]:
    """Iterate over the runs whose id begins with `run`, which MLflow cannot search by."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    recorded = every_run(client, experiments, EXPERIMENTS)
    return (one for one in recorded if one.info.run_id.startswith(run))
