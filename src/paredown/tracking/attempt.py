"""One attempt to send records to a server: bounded in time, and believed only when the records are seen to be there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from paredown.tracking.journal import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient


class NotSent(Exception):
    """A failure of MLflow to accept records, with the reason as message; they stay in the journal."""


class Attempt:
    """A thread that sends, so that a server that answers one byte at a time holds nobody up.

    MLflow's timeout is for each read, not for a whole answer.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    def run(self, send: Callable[[], int], seconds: float) -> int:
        """Return what `send` returns. Raise what it raises, and NotSent where it, or an earlier one, takes longer than
        `seconds`."""
        if self._thread and self._thread.is_alive():
            raise NotSent("it is still busy with earlier records")
        outcome: list[int | BaseException] = []

        def work() -> None:
            try:
                outcome.append(send())
            except BaseException as error:  # raised again in the thread that waits
                outcome.append(error)

        self._thread = threading.Thread(target=work, name="send", daemon=True)
        self._thread.start()
        self._thread.join(seconds)
        if not outcome:
            raise NotSent(f"it did not take the records within {seconds:.0f} s")
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        return outcome[0]


def require_arrived(client: MlflowClient, run_id: str, records: Sequence[Record], files: Path) -> None:
    """Raise NotSent unless the run has `records`: to MLflow's client any answer of status 200 is a success, also that
    of a login page or a proxy."""
    if missing := _missing(client, run_id, records, files):
        raise NotSent(f"it answers, but not as MLflow does: {missing} was sent and is not there")


def _missing(client: MlflowClient, run_id: str, records: Sequence[Record], files: Path) -> str | None:
    run = client.get_run(run_id)
    for kind, held in (("params", run.data.params), ("tags", run.data.tags)):
        wanted = {name for record in records for name in record.get(kind, {})}
        if lacking := sorted(wanted - set(held)):
            return f"{kind[:-1]} {lacking[0]}"
    points = [record for record in records if record["kind"] == "metrics"]
    for record in points[-1:]:
        name = [*record["values"]][-1]
        history = client.get_metric_history(run_id, name)
        if (record["step"], record["time"]) not in {(metric.step, metric.timestamp) for metric in history}:
            return f"metric {name}"
    ends = [record["status"] for record in records if record["kind"] == "finish"]
    if ends and records[-1]["kind"] == "finish" and run.info.status != ends[-1]:
        return f"status {ends[-1]}"
    return _missing_artifact(
        client, run_id, [record["name"] for record in records if record["kind"] == "artifact"], files
    )


def _missing_artifact(client: MlflowClient, run_id: str, names: Sequence[str], files: Path) -> str | None:
    there = [name for name in dict.fromkeys(names) if (files / name).is_file()]
    for folder in dict.fromkeys(PurePosixPath(name).parent.as_posix() for name in there):
        listed = client.list_artifacts(run_id, None if folder == "." else folder)
        held = {item.path for item in listed}
        if lacking := [name for name in there if PurePosixPath(name).parent.as_posix() == folder and name not in held]:
            return f"artifact {lacking[0]}"
    return None
