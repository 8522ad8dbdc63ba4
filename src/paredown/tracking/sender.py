"""The sender from a journal to MLflow: in batches, resumable, and idempotent."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from paredown.core.constraints import Checked, NonNegativeInt
from paredown.core.errors import UserError
from paredown.core.files import MADE_AGAIN, read_json, write_text
from paredown.core.paths import linked
from paredown.tracking.attempt import Attempt, NotSent, require_arrived
from paredown.tracking.client import SQLITE, connect, get_experiment, outages_as, public
from paredown.tracking.journal import Journal, Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

JOURNAL_TAG = "paredown.journal"  # identifies a journal's run if its cursor file is lost
BATCH_RECORDS = 200  # between two writes of the cursor
MAX_METRICS, MAX_ENTRIES = 800, 100  # per call: MLflow accepts 1000 in total, 100 parameters and 100 tags
LOCK_SECONDS = 1.0  # to wait for another process that sends the same journal
PATIENCE_SECONDS, SLOWEST_BYTES = 60.0, 100_000  # for a server to take all that is pending; a second, of artifacts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cursor(Checked):
    """The position up to which a journal was sent to one store: its run there, and the byte offset."""

    run_id: str | None = None
    experiment_id: str | None = None
    offset: NonNegativeInt = 0


class Sender:
    """Forwards one journal to one store. Its only state is the cursor file next to the journal."""

    def __init__(self, journal: Journal, uri: str) -> None:
        self.journal = journal
        self.uri = uri
        name = hashlib.sha256(public(uri).encode()).hexdigest()[:12]
        self.path = journal.folder / f"sent-{name}.json"
        self._client: MlflowClient | None = None
        self._verified = False
        self._attempt = Attempt()

    @property
    def cursor(self) -> Cursor:
        """The position after the last record that was sent."""
        if not self.path.is_file():
            return Cursor()
        try:
            found: Cursor = read_json(self.path, Cursor, MADE_AGAIN)
        except UserError as error:  # as good as lost: the run is found by its tag, and records are sent again
            log.warning("%s", error)
            return Cursor()
        return found

    def send(self) -> int:
        """Send all pending records and return their number. Raise NotSent if the store does not accept them."""
        if not self.journal.read(0, 1)[0]:
            return 0
        if self.uri.startswith(SQLITE):
            return self._send_now()
        return self._attempt.run(self._send_now, PATIENCE_SECONDS + self._pending_bytes() / SLOWEST_BYTES)

    def _send_now(self) -> int:
        from filelock import FileLock

        verified, self._verified = self._verified, False  # after an outage the store may have lost the run
        with outages_as(NotSent), FileLock(self.path.with_suffix(".lock"), timeout=LOCK_SECONDS):
            self._client = self._client or connect(self.uri)
            sent = self._send(self._client, self.cursor if verified else self._locate(self._client))
        self._verified = True
        return sent

    def _send(self, client: MlflowClient, cursor: Cursor) -> int:
        sent = 0
        while True:
            records, end = self.journal.read(cursor.offset, BATCH_RECORDS)
            if not records:
                return sent
            _forward(client, str(cursor.run_id), records, self.journal.files)
            if not self.uri.startswith(SQLITE):
                require_arrived(client, str(cursor.run_id), records, self.journal.files)
            cursor = self._move(replace(cursor, offset=end))
            sent += len(records)

    def _locate(self, client: MlflowClient) -> Cursor:
        """Return the cursor after checking that its run exists, or a new one at the journal's start if it does not."""
        cursor = self.cursor
        stage = _stage(client, cursor.run_id)
        if stage is None:
            cursor = self._move(self._find_or_create(client))
        elif stage == "deleted" and self.journal.read(cursor.offset, 1)[0]:
            client.restore_run(str(cursor.run_id))
        return cursor

    def _find_or_create(self, client: MlflowClient) -> Cursor:
        (start,), _ = self.journal.read(0, 1)
        if start["kind"] != "start":
            raise UserError(f"{self.journal.path} does not begin with a start: it is half a journal, delete it")
        experiment = get_experiment(client, self.uri, start["experiment"]).experiment_id
        found = client.search_runs([experiment], f"tags.`{JOURNAL_TAG}` = '{start['id']}'", max_results=1)
        if found:
            return Cursor(found[0].info.run_id, experiment)
        tags = {JOURNAL_TAG: start["id"]} | start["tags"]
        run = client.create_run(experiment, start_time=start["time"], tags=tags, run_name=start["name"])
        if not experiment or not run.info.run_id or _stage(client, run.info.run_id) is None:
            raise NotSent("it answers, but not as MLflow does: the run that it created is not there")
        return Cursor(run.info.run_id, experiment)

    def _pending_bytes(self) -> int:
        records, _ = self.journal.read(self.cursor.offset)
        files = {self.journal.files / record["name"] for record in records if record["kind"] == "artifact"}
        return sum(path.stat().st_size for path in files if path.is_file())

    def _move(self, cursor: Cursor) -> Cursor:
        write_text(self.path, json.dumps(asdict(cursor)))
        return cursor


def _stage(client: MlflowClient, run_id: str | None) -> str | None:
    """Return the lifecycle stage, 'active' or 'deleted' (in MLflow's trash), or None if the run does not exist."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        info = client.get_run(run_id).info
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    if info.run_id != run_id or info.lifecycle_stage not in ("active", "deleted"):
        raise NotSent("it answers, but not as MLflow does: asked for one run, it returns another")
    return info.lifecycle_stage


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
        client.log_batch(run_id, metrics[:MAX_METRICS], params[:MAX_ENTRIES], tags[:MAX_ENTRIES])
        metrics, params, tags = metrics[MAX_METRICS:], params[MAX_ENTRIES:], tags[MAX_ENTRIES:]
    for name in dict.fromkeys(record["name"] for record in records if record["kind"] == "artifact"):
        _upload(client, run_id, files, name)
    _set_status(client, run_id, [record for record in records if record["kind"] in ("start", "finish")])


def _upload(client: MlflowClient, run_id: str, files: Path, name: str) -> None:
    if not (files / name).is_file():  # retrying would block all later records for ever
        log.warning("%s was deleted before it was sent; the run does not have it", files / name)
        return
    if linked(files, name):
        log.warning("%s is a link, which may lead to what is not the run's: the run does not have it", files / name)
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
