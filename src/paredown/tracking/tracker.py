"""The tracker of one experiment: every record goes to its journal at once and to MLflow when it is reachable."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from paredown.core.errors import UserError
from paredown.tracking.client import SQLITE, check_uri, database_path, public
from paredown.tracking.journal import FOLDER, NAME, Journal, check_name
from paredown.tracking.sender import NotSent, Sender
from paredown.tracking.view import run_link

RETRY_SECONDS = 30.0  # between two attempts to reach a store that does not answer
Status = Literal["FINISHED", "FAILED", "KILLED"]

log = logging.getLogger(__name__)


class Tracker:
    """The records of the experiment in `folder`: one MLflow run in `experiment` of the store `uri` (None or 'off':
    the journal only). A new tracker of the same folder continues the same journal and run.

    Only one process may record into a folder at a time. Raise UserError for a malformed `uri`.
    """

    def __init__(self, folder: Path, uri: str | None, experiment: str = "paredown") -> None:
        checked = check_uri(uri)
        self.experiment = experiment
        self.journal = Journal(Path(folder))
        self.journal.repair()
        self._sender = Sender(self.journal, checked) if checked else None
        self._retry_at = 0.0
        self._unreachable = False
        records, _ = self.journal.read()
        starts = [record for record in records if record["kind"] == "start"]
        self._id = starts[0]["id"] if starts else None
        self._params: dict[str, str] = {k: v for record in starts for k, v in record["params"].items()}
        self._recorded = {
            (name, record["step"]) for record in records if record["kind"] == "metrics" for name in record["values"]
        }

    @property
    def run_id(self) -> str | None:
        """The id of the MLflow run; None before the first records were sent."""
        return self._sender.cursor.run_id if self._sender else None

    @property
    def is_begun(self) -> bool:
        """Whether there is a store to look into: a server, or a local database that was made before. To import MLflow
        and make one takes as long as all else before the first training step."""
        uri = self._sender.uri if self._sender else ""
        return bool(uri) and (not uri.startswith(SQLITE) or database_path(uri).is_file())

    @property
    def url(self) -> str | None:
        """The address of the run's page; None without a server or before the run was first sent."""
        if self._sender is None or self._sender.uri.startswith(SQLITE):
            return None
        cursor = self._sender.cursor
        if cursor.run_id is None or cursor.experiment_id is None:
            return None
        return run_link(public(self._sender.uri), cursor.experiment_id, cursor.run_id)

    @property
    def has_pending(self) -> bool:
        """Whether there are records that the store does not have."""
        return self._sender is not None and bool(self.journal.read(self._sender.cursor.offset, 1)[0])

    def start(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str], send: bool = True) -> None:
        """Start the run or resume it, and `send`. Nested `params` get dotted names. MLflow parameters are immutable:
        one that differs from the first start's becomes the tag `resumed/<name>`."""
        flat = {check_name(key): value for key, value in flatten(params)}
        changed = {f"resumed/{k}": v for k, v in flat.items() if self._params.get(k, v) != v}
        fresh = {k: v for k, v in flat.items() if k not in self._params}
        self._id = self._id or uuid.uuid4().hex
        all_tags = {"kind": "experiment"} | {check_name(k): str(v) for k, v in tags.items()} | changed
        self.journal.append("start", id=self._id, experiment=self.experiment, name=name, params=fresh, tags=all_tags)
        self._params |= fresh
        if send:
            self.send()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record `values` at `step`, except those already recorded there by the run that this one resumes."""
        fresh = {check_name(k): float(v) for k, v in values.items() if (k, step) not in self._recorded}
        if fresh:
            self._append("metrics", step=step, values=fresh)
            self._recorded |= {(name, step) for name in fresh}

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record the file `path` in the artifact folder `folder`, replacing one of the same name; the journal keeps a
        link to it or a copy. Raise FileNotFoundError if it does not exist."""
        name = f"{folder}/{path.name}" if folder else path.name
        self.journal.keep(path, name)
        self._append("artifact", name=name)

    def text(self, text: str, name: str) -> None:
        """Record `text` as the artifact `name`."""
        self.journal.keep_text(text, name)
        self._append("artifact", name=name)

    def figure(self, figure: Any, name: str) -> None:
        """Record a Plotly figure as the artifact `name` (.html, 5 MB), which renders offline."""
        self.text(figure.to_html(include_plotlyjs=True, full_html=True), name)

    def finish(self, status: Status = "FINISHED", tags: Mapping[str, str] | None = None) -> bool:
        """End the run, adding `tags`, and send a last time; return what `send` returns."""
        self._append("finish", status=status, tags={check_name(k): str(v) for k, v in (tags or {}).items()})
        self._retry_at = 0.0
        return self.send()

    def send(self) -> bool:
        """Send pending records; meant to be called after every epoch. Return False during an outage, which causes one
        warning and every `RETRY_SECONDS` one attempt of a few seconds."""
        if self._sender is None:
            return True
        if time.monotonic() < self._retry_at:
            return False
        try:
            self._sender.send()
        except NotSent as error:
            self._back_off(error)
            return False
        if self._unreachable:
            log.warning("tracking: %s answers again; everything is sent", public(self._sender.uri))
        self._unreachable = False
        return True

    def _append(self, kind: str, **values: Any) -> None:
        if self._id is None:
            raise RuntimeError("Tracker.start() must be called before anything is recorded")
        self.journal.append(kind, **values)

    def _back_off(self, error: NotSent) -> None:
        assert self._sender is not None
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if not self._unreachable:
            where = public(self._sender.uri)
            log.warning("tracking: %s accepts no records (%s); they are kept in %s", where, error, self.journal.folder)
        self._unreachable = True


def send_pending(root: Path, uri: str) -> dict[str, int]:
    """Send the records of all experiments below `root` that `uri` does not have.

    Return the number of `runs` found, of `records` sent, and of runs still `pending`. Raise UserError if `root` is
    not a folder or `uri` not a store.
    """
    checked = check_uri(uri)
    if checked is None or not root.is_dir():
        raise UserError(f"tracking.uri={uri} is not a store" if root.is_dir() else f"{root} is not a folder")
    counts = {"runs": 0, "records": 0, "pending": 0}
    for path in sorted(root.rglob(f"{FOLDER}/{NAME}")):
        counts["runs"] += 1
        try:
            counts["records"] += Sender(Journal(path.parents[1]), checked).send()
        except (NotSent, UserError) as error:  # UserError: this journal is damaged, which keeps no other waiting
            counts["pending"] += 1
            log.warning("%s: %s", path.parents[1], error)
    return counts


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the dotted names of nested `values` with their texts, as a run records its parameters."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
