"""Where a sweep stands: what is done, running, failed, how good it is so far, and how long it will take."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import Any

from paredown.execute import RESULT
from paredown.sweep.file import Metrics
from paredown.sweep.planning import Plan, Planned, work
from paredown.sweep.planning import controls as planned_controls

Row = dict[str, float]


LISTING = "sweep.json"  # of the sweep's folder: its experiments, and what became of them


@dataclass
class Run:
    """An experiment that has been handed to Ray."""

    planned: Planned
    since: float = field(default_factory=time.monotonic)
    placed: bool = False  # Ray found a place for it
    trial: Any = None  # Tune's own, from then on
    tries: int = 1
    holder: str = field(default_factory=lambda: uuid.uuid4().hex)  # what its process signs with in a bucket
    told: dict[str, Any] = field(default_factory=dict)  # its last report

    @property
    def doing(self) -> str:
        """`sparsify 12/100`, `starting, try 2`."""
        again = f", try {self.tries}" if self.tries > 1 else ""
        if "stage" not in self.told:
            return ("starting" if self.placed else "next") + again
        return f"{self.told['stage']} {self.told['epoch']}/{self.told['epochs']}{again}"


class Board:
    """The state of every experiment of `plan`, by its key. One thread writes; readers see whole values."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.metrics: Metrics = plan.sweep.metrics
        self.planned: dict[str, Planned] = {}
        self.results: dict[str, Row] = {}
        self.failed: dict[str, str] = {}
        self.deaths: list[tuple[str, str]] = []  # of processes, whose experiment is tried again: its label, the reason
        self.stopped: set[str] = set()  # ended early, by the rule that was asked for
        self.running: dict[str, Run] = {}
        self.begun: set[str] = set()  # all that were ever handed out
        self.reused: set[str] = set()
        self.trained: list[str] = []  # the keys of the stages that this sweep trained
        self._before = _stopped_before(plan)
        self.started = time.monotonic()
        self._trained_images = 0.0
        self._controlled: set[str] = set()  # the experiments whose controls are there
        for planned in plan.experiments:
            self.add(planned)

    def add(self, planned: Planned) -> None:
        """One experiment more, at the start or because a search proposes it; perhaps its result is there."""
        key = planned.experiment.key
        if planned.finished:
            self.results[key] = json.loads((planned.experiment.folder / RESULT).read_text())
            self.reused.add(key)
        elif key in self._before:
            self.stopped.add(key)
        self.planned[key] = planned

    @property
    def total(self) -> int:
        """How many experiments there will be."""
        trials = self.plan.sweep.search.trials if self.plan.sweep.search else 0
        return max(trials, len(self.points)) + len(self.planned) - len(self.points)

    @property
    def points(self) -> dict[str, Planned]:
        """The experiments that were asked for, without their controls."""
        return {key: planned for key, planned in list(self.planned.items()) if not planned.control}

    def add_controls(self) -> None:
        """The controls, where the sweep wants any, of what is finished since this was last asked for."""
        fresh = [planned for key, planned in self.points.items() if key in self.results and key not in self._controlled]
        self._controlled |= {planned.experiment.key for planned in fresh}
        if self.plan.sweep.control_kinds:
            for planned in planned_controls(self.plan.sweep, fresh):
                self.add(planned)

    @property
    def open(self) -> bool:
        """Whether there is anything to run."""
        return bool(self.waiting or self.plan.sweep.search)

    @property
    def waiting(self) -> list[Planned]:
        """What has not been handed out yet, in the order of the file."""
        gone = (self.results, self.failed, self.stopped, self.running)
        return [planned for key, planned in list(self.planned.items()) if not any(key in group for group in gone)]

    def start(self, planned: Planned) -> Run:
        """`planned` was handed to Ray."""
        run = self.running[planned.experiment.key] = Run(planned)
        self.begun.add(planned.experiment.key)
        return run

    def tell(self, run: Run, report: dict[str, Any]) -> None:
        """An epoch of `run` is over."""
        self._trained_images += report["images"] / report["epoch"]  # of this epoch: a resumed fit begins in the middle
        run.told = report

    def retry(self, run: Run, reason: str) -> None:
        """The process of `run` died, and Ray starts another."""
        run.tries, run.placed, run.told = run.tries + 1, False, {}
        self.deaths.append((run.planned.label, reason))

    def finish(self, run: Run, metrics: Row, trained: list[str]) -> None:
        """`run` ended with a result."""
        key = run.planned.experiment.key
        self.results[key] = metrics
        self.running.pop(key, None)
        self.trained += trained

    def stop(self, planned: Planned) -> None:
        """`planned` was ended early."""
        self.stopped.add(planned.experiment.key)
        self.running.pop(planned.experiment.key, None)

    def fail(self, planned: Planned, reason: str) -> None:
        """`planned` ended without a result."""
        self.failed[planned.experiment.key] = reason
        self.running.pop(planned.experiment.key, None)

    def pairs(self) -> list[tuple[float, float]]:
        """(cost, accuracy) of every experiment that has both; a control is no point of the front."""
        names = (self.metrics.cost, self.metrics.accuracy)
        controls = {key for key, planned in list(self.planned.items()) if planned.control}
        found = [row for key, row in list(self.results.items()) if key not in controls]
        rows = [[row.get(name) for name in names] for row in found]
        return [(cost, accuracy) for cost, accuracy in rows if cost is not None and accuracy is not None]

    @property
    def best(self) -> float | None:
        """The highest accuracy so far."""
        return max((accuracy for _, accuracy in self.pairs()), default=None)

    @property
    def reproduced(self) -> dict[str, list[str]]:
        """The experiments of each published row that the sweep runs, by its name."""
        found: dict[str, list[str]] = {}
        for key, planned in self.points.items():
            if name := planned.experiment.config["reproduce"]:
                found.setdefault(name, []).append(key)
        return found

    @property
    def front(self) -> list[tuple[float, float]]:
        """The (cost, accuracy) pairs that no other beats in both, the cheapest first."""
        best, kept = float("-inf"), []
        for cost, accuracy in sorted(self.pairs(), key=lambda pair: (pair[0], -pair[1])):
            if accuracy > best:
                best = accuracy
                kept.append((cost, accuracy))
        return kept

    @property
    def seconds_left(self) -> float | None:
        """Training images still to go at the rate of this sweep so far; None before there is a rate."""
        spent = time.monotonic() - self.started
        if not self._trained_images:
            return None
        open_steps = {
            step.key: step
            for planned in [*self.waiting, *(run.planned for run in list(self.running.values()))]
            for step in planned.missing
        }
        begun = sum(
            run.told.get("images", 0) for run in list(self.running.values()) if run.told.get("key") in open_steps
        )
        return (work(open_steps.values()) - begun) * spent / self._trained_images


def _stopped_before(plan: Plan) -> set[str]:
    """The keys of what the same rule ended early when this command last ran."""
    path = plan.folder / LISTING
    if plan.sweep.stop.rule == "none":
        return set()
    plan.store.pull(plan.folder)
    if not path.is_file():
        return set()
    listing = json.loads(path.read_text())
    if listing.get("stop") != asdict(plan.sweep.stop):  # its metric and grace are of the rule, too
        return set()
    return {entry["key"] for entry in listing["experiments"] if entry["state"] == "stopped"}
