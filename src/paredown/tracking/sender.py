"""From the journal to MLflow: in batches, from where the last ended; what is sent twice is there once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from paredown.tracking.client import connect, get_experiment, outages_as, public
from paredown.tracking.journal import Journal, Record, write_text

if TYPE_CHECKING:
    from mlflow import MlflowClient

JOURNAL_TAG = "paredown.journal"  # finds the run of a journal whose cursor file is lost
BLOCK = 200  # records between two writes of the cursor
METRICS, ENTRIES = 800, 100  # per call: MLflow takes 1000 in all, of them 100 parameters and 100 tags
BUSY = 1.0  # seconds to wait for another process that sends the same journal

log = logging.getLogger(__name__)


class NotSent(Exception):
    """MLflow did not take the records, for the reason in the message; they wait in the journal."""


@dataclass(frozen=True)
class Cursor:
    """How far a journal has been sent to one store: the run it became there, and the bytes already taken."""

    run_id: str | None = None
    experiment_id: str | None = None
    offset: int = 0


class Sender:
    """Forwards one journal to one store. All it must remember is in the cursor file beside the journal."""

    def __init__(self, journal: Journal, uri: str) -> None:
        self.journal = journal
        self.uri = uri
        name = hashlib.sha256(public(uri).encode()).hexdigest()[:12]
        self.path = journal.folder / f"sent-{name}.json"
        self._client: MlflowClient | None = None
        self._known = False

    @property
    def cursor(self) -> Cursor:
        """Where the last sending ended."""
        return Cursor(**json.loads(self.path.read_text())) if self.path.is_file() else Cursor()

    def send(self) -> int:
        """Send what waits; return the number of records. Raises NotSent when the store does not take them."""
        from filelock import FileLock

        if not self.journal.read(0, 1)[0]:
            return 0
        known, self._known = self._known, False  # after an outage the store may come back without the run
        with outages_as(NotSent), FileLock(self.path.with_suffix(".lock"), timeout=BUSY):
            self._client = self._client or connect(self.uri)
            sent = self._send(self._client, self.cursor if known else self._locate(self._client))
        self._known = True
        return sent

    def _send(self, client: MlflowClient, cursor: Cursor) -> int:
        sent = 0
        while True:
            records, end = self.journal.read(cursor.offset, BLOCK)
            if not records:
                return sent
            _forward(client, str(cursor.run_id), records, self.journal.files)
            cursor = self._move(replace(cursor, offset=end))
            sent += len(records)

    def _locate(self, client: MlflowClient) -> Cursor:
        """The cursor, its run known to exist; at the journal's start when the store has lost the run."""
        cursor = self.cursor
        stage = _stage(client, cursor.run_id)
        if stage is None:
            cursor = self._move(self._find_or_create(client))
        elif stage == "deleted" and self.journal.read(cursor.offset, 1)[0]:
            client.restore_run(str(cursor.run_id))
        return cursor

    def _find_or_create(self, client: MlflowClient) -> Cursor:
        (start,), _ = self.journal.read(0, 1)
        experiment = get_experiment(client, self.uri, start["experiment"]).experiment_id
        found = client.search_runs([experiment], f"tags.`{JOURNAL_TAG}` = '{start['id']}'", max_results=1)
        if found:
            return Cursor(found[0].info.run_id, experiment)
        tags = {JOURNAL_TAG: start["id"]} | start["tags"]
        run = client.create_run(experiment, start_time=start["time"], tags=tags, run_name=start["name"])
        return Cursor(run.info.run_id, experiment)

    def _move(self, cursor: Cursor) -> Cursor:
        write_text(self.path, json.dumps(asdict(cursor)))
        return cursor


def _stage(client: MlflowClient, run_id: str | None) -> str | None:
    """'active', 'deleted' (in MLflow's bin), or None for a run that is not there."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        return client.get_run(run_id).info.lifecycle_stage
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _forward(client: MlflowClient, run_id: str, records: Sequence[Record], files: Path) -> None:
    from mlflow.entities import Metric, Param, RunTag

    starts = [record for record in records if record["kind"] == "start"]
    params = [Param(name, value) for record in starts for name, value in record["params"].items()]
    merged = {name: value for record in records for name, value in record.get("tags", {}).items()}
    tags = [RunTag(name, value) for name, value in merged.items()]
    metrics = [
        Metric(name, value, record["time"], record["step"])
        for record in records
        if record["kind"] == "metrics"
        for name, value in record["values"].items()
    ]
    while metrics or params or tags:
        client.log_batch(run_id, metrics[:METRICS], params[:ENTRIES], tags[:ENTRIES])
        metrics, params, tags = metrics[METRICS:], params[ENTRIES:], tags[ENTRIES:]
    for name in dict.fromkeys(record["name"] for record in records if record["kind"] == "artifact"):
        _upload(client, run_id, files, name)
    _set_status(client, run_id, [record for record in records if record["kind"] in ("start", "finish")])


def _upload(client: MlflowClient, run_id: str, files: Path, name: str) -> None:
    if not (files / name).is_file():  # waiting for a deleted file would hold up all the rest for ever
        log.warning("%s was deleted before it could be sent; the run goes without it", files / name)
        return
    folder = Path(name).parent.as_posix()
    client.log_artifact(run_id, str(files / name), None if folder == "." else folder)


def _set_status(client: MlflowClient, run_id: str, records: Sequence[Record]) -> None:
    if not records:
        return
    last = records[-1]
    if last["kind"] == "finish":
        client.set_terminated(run_id, last["status"], last["time"])
    else:
        client.update_run(run_id, status="RUNNING")
