"""The Tune searcher of a sweep: submit an experiment when no other process makes its next stage, so that none waits."""

from __future__ import annotations

import json
import logging
import time
from bisect import insort
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from paredown.sweep.planning import Planned, training_images
from paredown.sweep.progress import Progress, RunningTrial
from paredown.sweep.worker import trial_spec

log = logging.getLogger("paredown")

POLL_SECONDS = 0.5  # between two looks at the store
MAX_REASON = 160  # characters; Ray's message may fill a page


@dataclass(frozen=True, order=True)
class _Waiting:
    """An experiment of the queue, in the `order` of minus the training images left, of equal ones by `number`;
    `key` is its next stage, "" where none is missing."""

    order: float
    number: int
    key: str
    planned: Planned = field(compare=False)

    @classmethod
    def of(cls, number: int, planned: Planned) -> _Waiting:
        """Look up what is missing of `planned`."""
        missing = planned.missing
        return cls(-training_images(missing), number, missing[0].key if missing else "", planned)


class StageSearcher(Searcher):
    """Submits the experiments of `progress` to Tune, each once, when the state it starts from is stored.

    Experiments that share stages form a tree. The one with the most training left goes first and makes the shared
    stages; the others are held back until their next stage is not shared. A failed stage fails all that need it.
    """

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress
        self.trials: dict[str, RunningTrial] = {}  # by Tune's trial id
        self._polled_at = 0.0
        self._unreachable = False
        self._queue: list[_Waiting] = []
        self._queued = 0  # how many experiments there were then

    def suggest(self, trial_id: str) -> Any:
        """Return the next experiment's specification, None if all that are left must wait, or FINISHED."""
        if self._exhausted:
            return Searcher.FINISHED
        if time.monotonic() - self._polled_at < POLL_SECONDS:
            return None
        try:
            chosen = self._choose()
        except OSError as error:  # raised from a searcher it would end the sweep
            if not self._unreachable:
                log.warning("the store does not answer and will be retried: %s", error)
            self._unreachable, chosen = True, None
        else:
            self._unreachable = False
        if chosen is None:
            self._polled_at = time.monotonic()
            return None
        trial = self.trials[trial_id] = self.progress.submit(chosen)
        return {"spec": json.dumps(trial_spec(chosen, self.progress.plan.sweep.resources, trial.holder))}

    @property
    def _exhausted(self) -> bool:
        return not self.progress.waiting

    def _choose(self) -> Planned | None:
        """Return the next experiment that can start, None if there is none. Raise OSError if the store is
        unreachable. The store is asked about all of them only where none of the queue can start."""
        if self._queued != len(self.progress.planned) or not (found := self._take()):
            self._fill()
            found = self._take()
        return found

    def _fill(self) -> None:
        """Order the waiting experiments by the training that is left, and look up the next stage of each."""
        found = [_Waiting.of(number, planned) for number, planned in enumerate(self.progress.waiting)]
        self._queue, self._queued = sorted(found), len(self.progress.planned)

    def _take(self) -> Planned | None:
        """Remove the first experiment that can start from the queue and return it, None if there is none. One whose
        next stage was made meanwhile goes to its new place first."""
        taken = {step.key for trial in self.progress.running.values() for step in trial.planned.missing}
        place = 0
        while place < len(self._queue):
            one = self._queue[place]
            if not self.progress.is_waiting(one.planned):
                del self._queue[place]
            elif one.key in taken:
                place += 1
            elif (now := _Waiting.of(one.number, one.planned)) != one:
                del self._queue[place]
                insort(self._queue, now)
            elif self._is_free(one.planned, taken):
                del self._queue[place]
                return one.planned
            else:
                place += 1
        return None

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record the report of an epoch."""
        if "stage" in result:
            self.progress.record_epoch(self.trials[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record the end of a trial: a result, an exception, a process that died too often, or an early stop."""
        self._polled_at = 0.0
        trial, result = self.trials[trial_id], result or {}
        if "result" in result:
            self.progress.finish(trial, json.loads(result["result"]), result["trained"])
        elif error or "failed" in result:
            self.progress.fail(trial.planned, result.get("failed") or death_reason(trial.tune_trial))
            if error:
                self.progress.plan.store.revoke(trial.holder)
            self._fail_dependants(trial.planned, result.get("failed_in"))
        else:
            self.progress.stop(trial.planned)

    def _is_free(self, planned: Planned, taken: set[str]) -> bool:
        missing, experiment = planned.missing, planned.experiment
        if not missing:
            return not experiment.store.is_leased(experiment.folder)
        key, store = missing[0].key, experiment.store
        return key not in taken and not store.is_locked(key) and not store.is_leased(experiment.folder)

    def _fail_dependants(self, failed: Planned, key: str | None) -> None:
        """Fail all waiting experiments that need the stage `key`, in which `failed` ended: "" if in no stage, None if
        unknown, which is taken for its first missing one."""
        try:
            key = next((step.key for step in failed.missing), "") if key is None else key
            needing = [other for other in self.progress.waiting if key in {step.key for step in other.missing}]
        except OSError as error:
            log.warning("experiments that need the failed stage are tried as well: %s", error)
            return
        for other in needing:
            name = next(step.stage.name for step in other.missing if step.key == key)
            reason = self.progress.failed[failed.experiment.key]
            self.progress.fail(other, f"needs {name} of {failed.label}, which failed: {reason}")

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: a sweep resumes from the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: the same command plans the sweep again."""


class TrialCallback(Callback):
    """The events that Tune reports to callbacks only: a trial was placed, or its process died."""

    def __init__(self, searcher: StageSearcher) -> None:
        self.searcher = searcher

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Mark the trial as placed, at its first attempt or a later one."""
        running = self.searcher.trials[trial.trial_id]
        running.placed, running.tune_trial = True, trial

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Revoke the leases of the dead process and record the retry."""
        running = self.searcher.trials[trial.trial_id]
        self.searcher.progress.plan.store.revoke(running.holder)
        self.searcher.progress.retry(running, death_reason(trial))


def death_reason(tune_trial: Any) -> str:
    """Return why the process of `tune_trial` died: the last line of Ray's error file."""
    path = Path(tune_trial.error_file) if tune_trial and tune_trial.error_file else None
    text = path.read_text() if path and path.is_file() else ""
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    return "; ".join(["its process died", *(shorten(line, MAX_REASON, placeholder=" ...") for line in lines[-1:])])
