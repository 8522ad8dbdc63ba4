"""A sweep in MLflow: a parent run with its experiments as child runs, written by one thread of the driver."""

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

from paredown.core.errors import UserError
from paredown.core.files import write_text
from paredown.sweep.planning import Planned
from paredown.sweep.progress import LISTING, Progress
from paredown.tracking.client import SQLITE, check_uri, connect, database_path, outages_as
from paredown.tracking.journal import Journal
from paredown.tracking.sender import NotSent, Sender
from paredown.tracking.tracker import RETRY_SECONDS, Status, Tracker

PARENT = "mlflow.parentRunId"
POLL_SECONDS = 2.0  # between two looks at the journals: new records are sent in one batch
REPORT_SECONDS = 60.0  # between two reports while the sweep runs
REPORT_SHARE = 20  # and as many times what the last one took: a report over thousands of runs takes half a minute
RELEASE_SECONDS = 10.0  # in which a stopped worker releases its experiment

log = logging.getLogger("paredown")


class MlflowSync:
    """Forwards the journals that workers write to MLflow. An outage of MLflow does not stop the sweep: the same
    command, or `make sync`, sends what is left. `folder` gets the sweep's records, results.csv and sweep.json."""

    def __init__(self, progress: Progress, folder: Path) -> None:
        settings = progress.plan.tracking
        self.progress, self.folder = progress, folder
        self.uri = check_uri(settings["uri"])
        self.parent = Tracker(folder, self.uri, settings["experiment"])
        tags = {"kind": "sweep", "sweep": progress.plan.sweep.name}
        # creating a database takes six seconds, which must not delay the first trial; an existing one may be refused
        self.parent.start(progress.plan.sweep.name, {}, tags, send=self._has_database())
        self._senders: dict[str, Sender] = {}
        self._sent: set[str] = set()  # experiments that ended, completely sent and attached to the parent
        self._broken: set[str] = set()  # experiments whose records failed, which was logged
        self._stopped = set(progress.stopped)  # as the stored listing has it
        self._children: set[str] | None = None  # run ids of the parent's children
        self._retry_at = 0.0
        self._reported = 0  # results in the last report
        self._report_at = time.monotonic() + REPORT_SECONDS  # the next one
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mlflow-sync", daemon=True)
        self._thread.start()

    def close(self, status: Status) -> None:
        """Send everything left, end all runs that are still open, and end the parent with `status`."""
        self._stop.set()
        self._thread.join()
        try:
            for key, planned in self.progress.planned.items():
                if key not in self.progress.results:
                    with self._isolated(planned):
                        self._end(planned, status)
            self._close(status)
        except OSError as error:  # such as a full disk, which must not hide the sweep's results
            log.warning("the records of the sweep are not complete: %s; the same command completes them", error)

    def _close(self, status: Status) -> None:
        self._write_files()
        self._retry_at = 0.0
        counts = {"experiments": len(self.progress.planned), "finished": len(self.progress.results)}
        counts |= {"failed": len(self.progress.failed), "trainings": len(self.progress.trained)}
        self.parent.finish(status, {name: str(count) for name, count in counts.items()})
        self._send()
        if len(self.progress.results) > len(self.progress.reused) or not self.report.exists():
            self._report(logging.WARNING)

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._save_stopped()
            if not any(trial.placed for trial in list(self.progress.running.values())) and not self.progress.results:
                continue  # leave the CPU to Ray, which is starting
            self._send()
            self.progress.plan.store.push(self.folder)
            if len(self.progress.results) > self._reported and time.monotonic() > self._report_at:
                self._report(logging.DEBUG)

    def _has_database(self) -> bool:
        return self.uri is not None and self.uri.startswith(SQLITE) and database_path(self.uri).is_file()

    @property
    def report(self) -> Path:
        """The report page, in the folder of the sweep's records."""
        return self.folder / "report.html"

    def _report(self, level: int) -> None:
        """Write the report and attach it to the parent run; log an error at `level` and continue without."""
        if self.uri is None or not self.progress.results:
            return
        from paredown.report.publish import refresh
        from paredown.report.request import Request

        began, found, names = time.monotonic(), len(self.progress.results), self.progress.metrics
        plan, output, folder = self.progress.plan, self.progress.plan.output, self.folder
        try:
            refresh(
                Request(plan.sweep.name, x=names.cost, y=names.accuracy, output=output, uri=self.uri, folder=folder)
            )
        except (UserError, OSError) as error:
            log.log(level, "no report: %s", error)
        now = time.monotonic()
        self._reported, self._report_at = found, now + max(REPORT_SECONDS, REPORT_SHARE * (now - began))

    def _send(self) -> None:
        if self.uri is None or time.monotonic() < self._retry_at:
            return
        try:
            with outages_as(NotSent):
                if not self.parent.send() or self.parent.run_id is None:
                    raise NotSent("the parent run is not sent")
                self._children = self._find_children() if self._children is None else self._children
                for key in self._unsent_keys():
                    planned = self.progress.planned[key]
                    self.progress.plan.store.pull(planned.experiment.folder)  # OSError: an outage, which concerns all
                    with self._isolated(planned):
                        self._send_one(planned)
        except NotSent as error:
            log.debug("records are not sent yet: %s", error)  # the tracker has warned once
            self._retry_at = time.monotonic() + RETRY_SECONDS

    def _unsent_keys(self) -> Iterator[str]:
        """Yield the keys of the experiments that run or ended and are not completely sent."""
        progress = self.progress
        for key in [*progress.results, *progress.failed, *progress.stopped, *progress.running]:
            if key not in self._sent:
                yield key

    @contextmanager
    def _isolated(self, planned: Planned) -> Iterator[None]:
        """Log an error of one experiment's records (a damaged journal) once, and continue with the others."""
        try:
            yield
        except (UserError, OSError) as error:
            if planned.experiment.key not in self._broken:
                log.warning("the records of %s are not complete: %s", planned.label, error)
            self._broken.add(planned.experiment.key)

    def _send_one(self, planned: Planned) -> None:
        assert self.uri is not None and self._children is not None
        key = planned.experiment.key
        ended = key not in self.progress.running
        sender = self._senders.setdefault(key, Sender(Journal(planned.experiment.folder), self.uri))
        unsent = bool(sender.journal.read(sender.cursor.offset, 1)[0])
        if unsent or sender.cursor.run_id not in self._children:
            sender.send()
            with outages_as(NotSent):
                self._attach(sender.cursor.run_id)
        if ended:
            self._sent.add(key)

    def _attach(self, run_id: str | None) -> None:
        """Make the run a child of the sweep's run."""
        assert self.uri is not None and self._children is not None
        if run_id is None or run_id in self._children:
            return
        client = connect(self.uri)
        client.set_tag(run_id, PARENT, self.parent.run_id)
        client.set_tag(run_id, "sweep", self.progress.plan.sweep.name)
        self._children.add(run_id)

    def _find_children(self) -> set[str]:
        assert self.uri is not None
        client = connect(self.uri)
        experiment = client.get_run(str(self.parent.run_id)).info.experiment_id
        found = client.search_runs([experiment], f"tags.`{PARENT}` = '{self.parent.run_id}'", max_results=50_000)
        return {run.info.run_id for run in found}

    def _end(self, planned: Planned, status: Status) -> None:
        """End the run of `planned` if its process did not, because it was stopped or died."""
        from filelock import Timeout

        key, experiment = planned.experiment.key, planned.experiment
        stopped = key in self.progress.stopped
        ending: Status = "FAILED" if key in self.progress.failed else "KILLED" if stopped else status
        # in a stopped trial of several ranks, rank 0 may record its peers' end as a failure
        replaced = {"RUNNING", "FAILED"} if stopped else {"RUNNING"}
        if _recorded_status(Journal(experiment.folder)) not in replaced:
            return
        if key in self.progress.running:  # our process, which is gone
            experiment.store.revoke(self.progress.running[key].holder)
        try:
            if key not in self.progress.submitted and experiment.store.is_leased(experiment.folder):
                raise Timeout(str(experiment.folder))  # at once: with object storage, `exclusive` waits for a minute
            with experiment.store.exclusive(experiment.folder, RELEASE_SECONDS):
                Tracker(experiment.folder, None).finish(ending)
                self._sent.discard(key)
        except Timeout:  # another sweep runs it
            log.warning("%s is still running elsewhere", planned.label)

    def _write_files(self) -> None:
        for name, text in ((LISTING, self._listing()), ("results.csv", self._results())):
            write_text(self.folder / name, text)
            self.parent.text(text, name)

    def _save_stopped(self) -> None:
        """Save which experiments were stopped early, so that it survives the driver."""
        stopped = set(self.progress.stopped)
        if stopped != self._stopped:
            try:
                write_text(self.folder / LISTING, self._listing())
                self._stopped = stopped
            except OSError as error:
                log.debug("%s is not written yet: %s", LISTING, error)

    def _listing(self) -> str:
        rows: list[dict[str, Any]] = []
        for key, planned in list(self.progress.planned.items()):
            groups: dict[str, Container[str]] = {
                "finished": self.progress.results,
                "failed": self.progress.failed,
                "stopped": self.progress.stopped,
            }
            state = next((name for name, group in groups.items() if key in group), "waiting")
            entry: dict[str, Any] = {"label": planned.label, "overrides": planned.overrides, "key": key, "state": state}
            entry |= {"folder": planned.experiment.folder.name, "error": self.progress.failed.get(key)}
            rows.append(entry | {"stages": [step.key for step in planned.experiment.steps]})
        sweep = self.progress.plan.sweep
        return json.dumps({"sweep": sweep.name, "stop": asdict(sweep.stop), "experiments": rows}, indent=1)

    def _results(self) -> str:
        names = sorted({name for row in self.progress.results.values() for name in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, ["experiment", "folder", *names])
        writer.writeheader()
        for key, row in self.progress.results.items():
            planned = self.progress.planned[key]
            writer.writerow({"experiment": planned.label, "folder": planned.experiment.folder.name} | row)
        return text.getvalue()


def _recorded_status(journal: Journal) -> str | None:
    """Return the last status of the run in `journal`, None if it has no run."""
    found = [record for record in journal.read()[0] if record["kind"] in ("start", "finish")]
    return found[-1].get("status", "RUNNING") if found else None
