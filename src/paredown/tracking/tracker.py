"""What one experiment records: at once in its journal, in MLflow when that answers."""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from paredown.errors import UserError
from paredown.tracking.client import SQLITE, check_uri, public
from paredown.tracking.journal import FOLDER, NAME, Journal, check_name
from paredown.tracking.sender import NotSent, Sender
from paredown.tracking.view import run_link

PAUSE = 30.0  # seconds between two attempts at a store that does not answer
Status = Literal["FINISHED", "FAILED", "KILLED"]

log = logging.getLogger(__name__)


class Tracker:
    """The records of the experiment in `folder`: one MLflow run in `experiment` of the store `uri` (None or
    'off': the journal alone). Built again on the same folder, it goes on with the same journal and run.

    Only one process may record into a folder at a time. Raises UserError for a malformed `uri`.
    """

    def __init__(self, folder: Path, uri: str | None, experiment: str = "paredown") -> None:
        checked = check_uri(uri)
        self.experiment = experiment
        self.journal = Journal(Path(folder))
        self.journal.repair()
        self._sender = Sender(self.journal, checked) if checked else None
        self._quiet_until = 0.0
        self._away = False
        records, _ = self.journal.read()
        starts = [record for record in records if record["kind"] == "start"]
        self._id = starts[0]["id"] if starts else None
        self._params: dict[str, str] = {k: v for record in starts for k, v in record["params"].items()}
        self._seen = {
            (name, record["step"]) for record in records if record["kind"] == "metrics" for name in record["values"]
        }

    @property
    def run_id(self) -> str | None:
        """The id of the MLflow run; None before it was sent for the first time."""
        return self._sender.cursor.run_id if self._sender else None

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
    def waits(self) -> bool:
        """Whether there are records that the store has not yet taken."""
        return self._sender is not None and bool(self.journal.read(self._sender.cursor.offset, 1)[0])

    def start(self, name: str, params: Mapping[str, Any], tags: Mapping[str, str], send: bool = True) -> None:
        """Begin the run, or go on with it, and `send`. Nested `params` become dotted names. MLflow never
        changes a parameter: one that differs from the first start's becomes the tag `resumed/<name>`."""
        flat = {check_name(key): value for key, value in _flatten(params)}
        changed = {f"resumed/{k}": v for k, v in flat.items() if self._params.get(k, v) != v}
        fresh = {k: v for k, v in flat.items() if k not in self._params}
        self._id = self._id or uuid.uuid4().hex
        every = {"kind": "experiment"} | {check_name(k): str(v) for k, v in tags.items()} | changed
        self.journal.append("start", id=self._id, experiment=self.experiment, name=name, params=fresh, tags=every)
        self._params |= fresh
        if send:
            self.send()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Record `values` at `step`, except those recorded there before (by the run this one resumes)."""
        fresh = {check_name(k): float(v) for k, v in values.items() if (k, step) not in self._seen}
        if fresh:
            self._append("metrics", step=step, values=fresh)
            self._seen |= {(name, step) for name in fresh}

    def artifact(self, path: Path, folder: str = "") -> None:
        """Record the file `path` in the artifact folder `folder`; the journal keeps a link to it or a copy. A
        file of the same name recorded later replaces it. Raises FileNotFoundError."""
        name = f"{folder}/{path.name}" if folder else path.name
        self.journal.keep(path, name)
        self._append("artifact", name=name)

    def text(self, text: str, name: str) -> None:
        """Record `text` as the artifact `name`."""
        self.journal.keep_text(text, name)
        self._append("artifact", name=name)

    def figure(self, figure: Any, name: str) -> None:
        """Record a Plotly figure as the artifact `name` (.html) of 5 MB that renders without a network."""
        self.text(figure.to_html(include_plotlyjs=True, full_html=True), name)

    def finish(self, status: Status = "FINISHED", tags: Mapping[str, str] | None = None) -> bool:
        """End the run, with more `tags` if given, and try a last time to send; what `send` returns."""
        self._append("finish", status=status, tags={check_name(k): str(v) for k, v in (tags or {}).items()})
        self._quiet_until = 0.0
        return self.send()

    def send(self) -> bool:
        """Send what waits; call it once per epoch. False while the store is away: that costs one warning and,
        every 30 seconds, one attempt of a few seconds."""
        if self._sender is None:
            return True
        if time.monotonic() < self._quiet_until:
            return False
        try:
            self._sender.send()
        except NotSent as error:
            self._go_away(error)
            return False
        if self._away:
            log.warning("tracking: %s answers again; everything is sent", public(self._sender.uri))
        self._away = False
        return True

    def _append(self, kind: str, **values: Any) -> None:
        if self._id is None:
            raise RuntimeError("Tracker.start() comes before any other record")
        self.journal.append(kind, **values)

    def _go_away(self, error: NotSent) -> None:
        assert self._sender is not None
        self._quiet_until = time.monotonic() + PAUSE
        if not self._away:
            where = public(self._sender.uri)
            log.warning("tracking: %s takes no records (%s); they wait in %s", where, error, self.journal.folder)
        self._away = True


def send_waiting(root: Path, uri: str) -> dict[str, int]:
    """Send what the experiments anywhere below `root` have not yet sent to `uri`, or what it has lost since.

    Returns how many `runs` were looked at, how many `records` were sent, and how many runs still `wait`.
    Raises UserError for a `root` that is no folder and a `uri` that is no store.
    """
    checked = check_uri(uri)
    if checked is None or not root.is_dir():
        raise UserError(f"tracking.uri={uri} is no store" if root.is_dir() else f"{root} is no folder of experiments")
    counts = {"runs": 0, "records": 0, "wait": 0}
    for path in sorted(root.rglob(f"{FOLDER}/{NAME}")):
        counts["runs"] += 1
        try:
            counts["records"] += Sender(Journal(path.parents[1]), checked).send()
        except NotSent as error:
            counts["wait"] += 1
            log.warning("%s: %s", path.parents[1], error)
    return counts


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
