"""A sweep in MLflow: a parent run with the experiments as its children, written by one thread of the driver."""

from __future__ import annotations

import csv
import io
import json
import logging
import threading
import time
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from paredown.errors import UserError
from paredown.sweep.board import LISTING, Board
from paredown.sweep.planning import Planned
from paredown.tracking.client import SQLITE, check_uri, connect, database_path, outages_as
from paredown.tracking.journal import Journal, write_text
from paredown.tracking.sender import NotSent, Sender
from paredown.tracking.tracker import PAUSE, Status, Tracker

PARENT = "mlflow.parentRunId"
BEAT = 2.0  # seconds between two looks at the journals: what came in between goes in one batch
REPORT_PAUSE = 60.0  # seconds between two reports while the sweep runs
GRACE = 10.0  # seconds in which a worker that was stopped lets go of its experiment

log = logging.getLogger("paredown")


class Records:
    """Sends the journals that the workers write. While MLflow is away nothing stops; the same command, or `make
    sync`, sends what then still waits. `folder` holds the sweep's own records, results.csv and sweep.json."""

    def __init__(self, board: Board, folder: Path) -> None:
        settings = board.plan.tracking
        self.board, self.folder = board, folder
        self.uri = check_uri(settings["uri"])
        self.parent = Tracker(folder, self.uri, settings["experiment"])
        tags = {"kind": "sweep", "sweep": board.plan.sweep.name}
        # making a database takes six seconds, which the first trial need not wait for; one that is there may be refused
        self.parent.start(board.plan.sweep.name, {}, tags, send=self._has_database())
        self._senders: dict[str, Sender] = {}
        self._sent: set[str] = set()  # ended, all sent and adopted
        self._broken: set[str] = set()  # something was wrong with their records, and was said
        self._stopped = set(board.stopped)  # as the listing has it
        self._adopted: set[str] | None = None
        self._quiet_until = 0.0
        self._reported, self._report_at = 0, time.monotonic() + REPORT_PAUSE  # results in the last report; the next one
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)
        self._thread.start()

    def close(self, status: Status) -> None:
        """Send all that waits, end every run that is still open, and the parent with `status`."""
        self._stop.set()
        self._thread.join()
        try:
            for key, planned in self.board.planned.items():
                if key not in self.board.results:
                    with self._apart(planned):
                        self._end(planned, status)
            self._close(status)
        except OSError as error:  # a full disk takes none of this, and hides none of the sweep's results
            log.warning("the sweep's records are not complete: %s; the same command completes them", error)

    def _close(self, status: Status) -> None:
        self._write()
        self._quiet_until = 0.0
        counts = {"experiments": len(self.board.planned), "finished": len(self.board.results)}
        counts |= {"failed": len(self.board.failed), "trainings": len(self.board.trained)}
        self.parent.finish(status, {name: str(count) for name, count in counts.items()})
        self._send()
        if len(self.board.results) > len(self.board.reused) or not self.report.exists():
            self._report(logging.WARNING)

    def _run(self) -> None:
        while not self._stop.wait(BEAT):
            self._keep_stopped()
            if not any(run.placed for run in list(self.board.running.values())) and not self.board.results:
                continue  # Ray is starting: let it have the processor
            self._send()
            self.board.plan.store.push(self.folder)
            if len(self.board.results) > self._reported and time.monotonic() > self._report_at:
                self._report(logging.DEBUG)

    def _has_database(self) -> bool:
        return self.uri is not None and self.uri.startswith(SQLITE) and database_path(self.uri).is_file()

    @property
    def report(self) -> Path:
        """The page with the front, its answer and its price, beside the sweep's own records."""
        return self.folder / "report.html"

    def _report(self, level: int) -> None:
        """Put the report on the sweep's page; what stands in its way is said at `level`, and costs the page alone."""
        if self.uri is None or not self.board.results:
            return
        from paredown.report.publish import refresh
        from paredown.report.request import Request

        found, names = len(self.board.results), self.board.metrics
        plan, output, folder = self.board.plan, str(self.board.plan.output), str(self.folder)
        try:
            refresh(
                Request(plan.sweep.name, x=names.cost, y=names.accuracy, output=output, uri=self.uri, folder=folder)
            )
        except (UserError, OSError) as error:
            log.log(level, "no report: %s", error)
        self._reported, self._report_at = found, time.monotonic() + REPORT_PAUSE

    def _send(self) -> None:
        if self.uri is None or time.monotonic() < self._quiet_until:
            return
        try:
            with outages_as(NotSent):
                if not self.parent.send() or self.parent.run_id is None:
                    raise NotSent("the parent run waits")
                self._adopted = self._children() if self._adopted is None else self._adopted
                for key in [*self.board.results, *self.board.failed, *self.board.stopped, *self.board.running]:
                    if key not in self._sent:
                        planned = self.board.planned[key]
                        self.board.plan.store.pull(planned.experiment.folder)  # fails: the bucket is away, for all
                        with self._apart(planned):
                            self._send_one(planned)
        except NotSent as error:
            log.debug("records wait: %s", error)  # the tracker has said so once
            self._quiet_until = time.monotonic() + PAUSE

    @contextmanager
    def _apart(self, planned: Planned) -> Iterator[None]:
        """What is wrong with one experiment's records, a broken journal say, is said once and costs these alone."""
        try:
            yield
        except (UserError, OSError) as error:
            if planned.experiment.key not in self._broken:
                log.warning("the records of %s are not complete: %s", planned.label, error)
            self._broken.add(planned.experiment.key)

    def _send_one(self, planned: Planned) -> None:
        assert self.uri is not None and self._adopted is not None
        key = planned.experiment.key
        ended = key not in self.board.running
        sender = self._senders.setdefault(key, Sender(Journal(planned.experiment.folder), self.uri))
        waits = bool(sender.journal.read(sender.cursor.offset, 1)[0])
        if waits or sender.cursor.run_id not in self._adopted:
            sender.send()
            with outages_as(NotSent):
                self._adopt(sender.cursor.run_id)
        if ended:
            self._sent.add(key)

    def _adopt(self, run_id: str | None) -> None:
        assert self.uri is not None and self._adopted is not None
        if run_id is None or run_id in self._adopted:
            return
        client = connect(self.uri)
        client.set_tag(run_id, PARENT, self.parent.run_id)
        client.set_tag(run_id, "sweep", self.board.plan.sweep.name)
        self._adopted.add(run_id)

    def _children(self) -> set[str]:
        assert self.uri is not None
        client = connect(self.uri)
        experiment = client.get_run(str(self.parent.run_id)).info.experiment_id
        found = client.search_runs([experiment], f"tags.`{PARENT}` = '{self.parent.run_id}'", max_results=50_000)
        return {run.info.run_id for run in found}

    def _end(self, planned: Planned, status: Status) -> None:
        """End the run of `planned` where it would stay open in MLflow: its process was stopped or died."""
        from filelock import Timeout

        key, experiment = planned.experiment.key, planned.experiment
        own: Status = "FAILED" if key in self.board.failed else "KILLED" if key in self.board.stopped else status
        wrong = {"RUNNING", "FAILED"} if key in self.board.stopped else {"RUNNING"}  # a rank sees its peers end first
        if _state(Journal(experiment.folder)) not in wrong:
            return
        if key in self.board.running:  # its process was ours, and is gone
            experiment.store.drop(self.board.running[key].holder)
        try:
            if key not in self.board.begun and experiment.store.held(experiment.folder):
                raise Timeout(str(experiment.folder))  # at once: in a bucket `alone` waits for a minute
            with experiment.store.alone(experiment.folder, GRACE):
                Tracker(experiment.folder, None).finish(own)
                self._sent.discard(key)
        except Timeout:  # another sweep has it in hand
            log.warning("%s is still running elsewhere", planned.label)

    def _write(self) -> None:
        for name, text in ((LISTING, self._listing()), ("results.csv", self._results())):
            write_text(self.folder / name, text)
            self.parent.text(text, name)

    def _keep_stopped(self) -> None:
        """Write down whom the rule has ended, so that a driver that is killed does not forget it."""
        stopped = set(self.board.stopped)
        if stopped != self._stopped:
            try:
                write_text(self.folder / LISTING, self._listing())
                self._stopped = stopped
            except OSError as error:
                log.debug("%s waits: %s", LISTING, error)  # for the next beat

    def _listing(self) -> str:
        rows: list[dict[str, Any]] = []
        for key, planned in list(self.board.planned.items()):
            groups: dict[str, Container[str]] = {
                "finished": self.board.results,
                "failed": self.board.failed,
                "stopped": self.board.stopped,
            }
            state = next((name for name, group in groups.items() if key in group), "waiting")
            entry: dict[str, Any] = {"label": planned.label, "overrides": planned.overrides, "key": key, "state": state}
            entry |= {"folder": planned.experiment.folder.name, "error": self.board.failed.get(key)}
            rows.append(entry | {"stages": [step.key for step in planned.experiment.steps]})
        sweep = self.board.plan.sweep
        return json.dumps({"sweep": sweep.name, "stop": asdict(sweep.stop), "experiments": rows}, indent=1)

    def _results(self) -> str:
        names = sorted({name for row in self.board.results.values() for name in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["experiment", "folder", *names])
        writer.writeheader()
        for key, row in self.board.results.items():
            planned = self.board.planned[key]
            writer.writerow({"experiment": planned.label, "folder": planned.experiment.folder.name} | row)
        return text.getvalue()


def _state(journal: Journal) -> str | None:
    """The status of the run that `journal` tells of, None where there is none."""
    found = [record for record in journal.read()[0] if record["kind"] in ("start", "finish")]
    return found[-1].get("status", "RUNNING") if found else None
