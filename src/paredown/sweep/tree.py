"""Which experiment Ray runs next: one whose next stage nobody else is making, so that no worker ever waits."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from textwrap import shorten
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from paredown.sweep.board import Board, Run
from paredown.sweep.planning import Planned, work
from paredown.sweep.work import specification

log = logging.getLogger("paredown")

PAUSE = 0.5  # seconds between two looks at the store
LONGEST = 160  # characters of a reason: Ray's may be a page


class Tree(Searcher):
    """Hands Tune the experiments of `board`, each once, when the state it starts from is in the store.

    Experiments that share stages form a tree. The one with the most work left goes first and makes what is shared;
    the others are held back until their next stage is their own. A stage that failed fails all that need it.
    """

    def __init__(self, board: Board) -> None:
        super().__init__()
        self.board = board
        self.runs: dict[str, Run] = {}  # by Tune's trial id
        self._looked = 0.0
        self._away = False

    def suggest(self, trial_id: str) -> Any:
        """The next experiment's specification, None when all that are left must wait, FINISHED when none is left."""
        if self._exhausted:
            return Searcher.FINISHED
        if time.monotonic() - self._looked < PAUSE:
            return None
        try:
            chosen = self._choose()
        except OSError as error:  # out of a searcher it would end the sweep
            if not self._away:
                log.warning("the store does not answer, it is asked again: %s", error)
            self._away, chosen = True, None
        else:
            self._away = False
        if chosen is None:
            self._looked = time.monotonic()
            return None
        run = self.runs[trial_id] = self.board.start(chosen)
        return {"work": json.dumps(specification(chosen, self.board.plan.sweep.resources, run.holder))}

    @property
    def _exhausted(self) -> bool:
        return not self.board.waiting

    def _choose(self) -> Planned | None:
        """What may start now; OSError where the store does not answer."""
        taken = {step.key for run in self.board.running.values() for step in run.planned.missing}
        longest_first = sorted(self.board.waiting, key=lambda planned: -work(planned.missing))
        return next((planned for planned in longest_first if self._is_free(planned, taken)), None)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch is over."""
        if "stage" in result:
            self.board.tell(self.runs[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """An experiment ended: with a result, with an error of its own, or because its process kept dying."""
        self._looked = 0.0
        run, result = self.runs[trial_id], result or {}
        if "result" in result:
            self.board.finish(run, json.loads(result["result"]), result["trained"])
        elif error or "failed" in result:
            self.board.fail(run.planned, result.get("failed") or death(run.trial))
            if error:
                self.board.plan.store.drop(run.holder)
            self._fail_dependants(run.planned, result.get("failed_in"))
        else:
            self.board.stop(run.planned)

    def _is_free(self, planned: Planned, taken: set[str]) -> bool:
        missing, experiment = planned.missing, planned.experiment
        if not missing:
            return not experiment.store.held(experiment.folder)
        key, store = missing[0].key, experiment.store
        return key not in taken and not store.busy(key) and not store.held(experiment.folder)

    def _fail_dependants(self, failed: Planned, key: str | None) -> None:
        """Fail what needs the stage of `key`, in which `failed` ended; "": in none, None: in the one it was to make."""
        try:
            key = next((step.key for step in failed.missing), "") if key is None else key
            needing = [other for other in self.board.waiting if key in {step.key for step in other.missing}]
        except OSError as error:
            log.warning("what needs the stage that failed is tried, too: %s", error)
            return
        for other in needing:
            name = next(step.stage.name for step in other.missing if step.key == key)
            reason = self.board.failed[failed.experiment.key]
            self.board.fail(other, f"needs {name} of {failed.label}, which failed: {reason}")

    def save(self, checkpoint_path: str) -> None:
        """Nothing: what a sweep must remember is in the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the same command plans anew."""


class Events(Callback):
    """What Tune tells a callback and not a searcher: that a trial got its place, and that its process died."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A place was free, or the experiment is tried again."""
        run = self.tree.runs[trial.trial_id]
        run.placed, run.trial = True, trial

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Ray starts another process for it."""
        run = self.tree.runs[trial.trial_id]
        self.tree.board.plan.store.drop(run.holder)
        self.tree.board.retry(run, death(trial))


def death(trial: Any) -> str:
    """Why the process of Tune's `trial` died: the last line of what Ray said."""
    written = Path(trial.error_file) if trial and trial.error_file else None
    lines = written.read_text().split("\n") if written and written.is_file() else []
    said = [line.strip() for line in lines if line.strip()]
    return "; ".join(["its process died", *(shorten(line, LONGEST, placeholder=" ...") for line in said[-1:])])
