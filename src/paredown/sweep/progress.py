"""The progress of a sweep: the state of every experiment, the front so far, and the time left."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from paredown.core.files import MADE_AGAIN, read_json
from paredown.core.layout import read_result
from paredown.frontier.dominance import pareto
from paredown.sweep.planning import Plan, Planned, plan_controls, training_images
from paredown.sweep.spec import Metrics

Row = dict[str, float]


LISTING = "sweep.json"  # in the sweep's folder: its experiments and their states


@dataclass
class RunningTrial:
    """An experiment that was submitted to Ray."""

    planned: Planned
    placed: bool = False  # Ray has the resources for it
    tune_trial: Any = None  # ray.tune's Trial, once placed
    attempts: int = 1
    holder: str = field(default_factory=lambda: uuid.uuid4().hex)  # of its process's leases
    last_report: dict[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """The stage and epoch, as `sparsify 12/100` or `starting, try 2`."""
        again = f", try {self.attempts}" if self.attempts > 1 else ""
        if "stage" not in self.last_report:
            return ("starting" if self.placed else "next") + again
        return "{stage} {epoch}/{epochs}".format(**self.last_report) + again


class Progress:
    """The state of every experiment of `plan`, by its key. One thread writes; readers in other threads see consistent
    values."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.metrics: Metrics = plan.sweep.metrics
        self.planned: dict[str, Planned] = {}
        self.results: dict[str, Row] = {}
        self.failed: dict[str, str] = {}
        self.deaths: list[tuple[str, str]] = []  # of processes whose trial is retried: label, reason
        self.stopped: set[str] = set()  # ended early by the stopping rule
        self.running: dict[str, RunningTrial] = {}
        self.submitted: set[str] = set()  # every experiment that was ever submitted to Ray
        self.reused: set[str] = set()
        self.reported: set[str] = set()  # names of what trainings reported after an epoch, in this call
        self.trained: list[str] = []  # keys of the stages that this sweep trained
        self._stopped_before = _stopped_before(plan)
        self.started_at = time.monotonic()
        self._trained_images = 0.0
        self._controlled: set[str] = set()  # experiments whose controls were added
        for planned in plan.experiments:
            self.add(planned)

    def add(self, planned: Planned) -> None:
        """Add an experiment, of the plan or proposed by a search, with its stored result if it has one."""
        key = planned.experiment.key
        if planned.finished:
            self.results[key] = read_result(planned.experiment.folder)
            self.reused.add(key)
        elif key in self._stopped_before:
            self.stopped.add(key)
        self.planned[key] = planned

    def take_stored(self) -> None:
        """Record the results that are stored and that Ray did not report."""
        for key, planned in self.planned.items():
            if key not in self.results and planned.finished:
                self.results[key] = read_result(planned.experiment.folder)
                self.running.pop(key, None)
                self.failed.pop(key, None)

    @property
    def total(self) -> int:
        """The number of experiments, including those a search has yet to propose."""
        trials = self.plan.sweep.search.trials if self.plan.sweep.search else 0
        return max(trials, len(self.points)) + len(self.planned) - len(self.points)

    @property
    def points(self) -> dict[str, Planned]:
        """The experiments without their controls."""
        return {key: planned for key, planned in list(self.planned.items()) if not planned.control}

    def add_controls(self) -> None:
        """Add the controls that the sweep asks for, of all experiments finished since the last call."""
        fresh = [planned for key, planned in self.points.items() if key in self.results and key not in self._controlled]
        self._controlled |= {planned.experiment.key for planned in fresh}
        for planned in plan_controls(self.plan.sweep, [one for one in fresh if one.controls]):
            self.add(planned)

    @property
    def has_work(self) -> bool:
        """Whether anything is left to run."""
        return bool(self.waiting or self.plan.sweep.search)

    @property
    def waiting(self) -> list[Planned]:
        """The experiments that are not submitted yet, in the order of the sweep file."""
        return [planned for planned in list(self.planned.values()) if self.is_waiting(planned)]

    def is_waiting(self, planned: Planned) -> bool:
        """Return whether `planned` is not submitted yet."""
        taken = (self.results, self.failed, self.stopped, self.running)
        return not any(planned.experiment.key in group for group in taken)

    def submit(self, planned: Planned) -> RunningTrial:
        """Mark `planned` as submitted to Ray."""
        trial = self.running[planned.experiment.key] = RunningTrial(planned)
        self.submitted.add(planned.experiment.key)
        return trial

    def record_epoch(self, trial: RunningTrial, report: dict[str, Any]) -> None:
        """Record the report of one epoch of `trial`."""
        self._trained_images += report["images"] / report["epoch"]  # this epoch's: a resumed fit does not start at 0
        trial.last_report = report
        self.reported |= set(report)

    def retry(self, trial: RunningTrial, reason: str) -> None:
        """Record that the process of `trial` died of `reason` and that Ray starts another one."""
        trial.attempts, trial.placed, trial.last_report = trial.attempts + 1, False, {}
        self.deaths.append((trial.planned.label, reason))

    def finish(self, trial: RunningTrial, metrics: Row, trained: list[str]) -> None:
        """Record the result of `trial` and the keys of the stages it trained."""
        key = trial.planned.experiment.key
        self.results[key] = metrics
        self.running.pop(key, None)
        self.trained += trained

    def stop(self, planned: Planned) -> None:
        """Mark `planned` as stopped early."""
        self.stopped.add(planned.experiment.key)
        self.running.pop(planned.experiment.key, None)

    def fail(self, planned: Planned, reason: str) -> None:
        """Mark `planned` as failed."""
        self.failed[planned.experiment.key] = reason
        self.running.pop(planned.experiment.key, None)

    def pairs(self) -> list[tuple[float, float]]:
        """Return (cost, accuracy) of every finished experiment that has both metrics, without controls."""
        names = (self.metrics.cost, self.metrics.accuracy)
        controls = {key for key, planned in list(self.planned.items()) if planned.control}
        found = [row for key, row in list(self.results.items()) if key not in controls]
        rows = [[row.get(name) for name in names] for row in found]
        return [(cost, accuracy) for cost, accuracy in rows if cost is not None and accuracy is not None]

    @property
    def unrecorded(self) -> list[str]:
        """The metrics of the sweep, as `metrics.accuracy=NAME`, that no finished experiment and no epoch had."""
        stop, names = (
            self.plan.sweep.stop,
            {"metrics.accuracy": self.metrics.accuracy, "metrics.cost": self.metrics.cost},
        )
        had = {name for row in self.results.values() for name in row}
        found = [f"{key}={name}" for key, name in names.items() if had and name not in had]
        unseen = stop.rule != "none" and self.reported and stop.metric not in self.reported
        return [*found, *([f"stop.metric={stop.metric}"] if unseen else [])]

    @property
    def best(self) -> float | None:
        """The highest accuracy so far."""
        return max((accuracy for _, accuracy in self.pairs()), default=None)

    @property
    def reproduced(self) -> dict[str, list[str]]:
        """The keys of the experiments that reproduce each published row, by the row's name."""
        found: dict[str, list[str]] = {}
        for key, planned in self.points.items():
            if name := planned.experiment.config["reproduce"]:
                found.setdefault(name, []).append(key)
        return found

    @property
    def front(self) -> list[tuple[float, float]]:
        """The distinct Pareto-optimal (cost, accuracy) pairs, by increasing cost."""
        pairs = sorted(set(self.pairs()))
        return [pair for pair, best in zip(pairs, pareto(pairs, (False, True)), strict=True) if best]

    @property
    def seconds_left(self) -> float | None:
        """The remaining training images divided by the sweep's images per second so far; None before the first
        epoch."""
        elapsed = time.monotonic() - self.started_at
        if not self._trained_images:
            return None
        waiting, trials = self.waiting, list(self.running.values())  # in this order: what moves between is in both
        unfinished = [*waiting, *(trial.planned for trial in trials)]
        left = {step.key: step for planned in unfinished for step in planned.missing}
        trained = sum(trial.last_report.get("images", 0) for trial in trials if trial.last_report.get("key") in left)
        return (training_images(left.values()) - trained) * elapsed / self._trained_images


def _stopped_before(plan: Plan) -> set[str]:
    """Return the keys of the experiments that the same stopping rule ended in an earlier run of this sweep."""
    path = plan.folder / LISTING
    if plan.sweep.stop.rule == "none":
        return set()
    plan.store.pull(plan.folder)
    if not path.is_file():
        return set()
    listing: _Listing = read_json(path, _Listing, MADE_AGAIN)
    if listing.stop != asdict(plan.sweep.stop):  # the same rule with the same metric and grace
        return set()
    return {entry.key for entry in listing.experiments if entry.state == "stopped"}


@dataclass(frozen=True)
class _Listed:
    key: str
    state: str


@dataclass(frozen=True)
class _Listing:
    experiments: list[_Listed]
    stop: Any = None
