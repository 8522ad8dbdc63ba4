"""A search: Optuna proposes experiments through Ray's OptunaSearch, and what it learnt is kept beside the sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from paredown.errors import UserError
from paredown.plan import digest
from paredown.sweep.board import Board
from paredown.sweep.file import Dimension, Search, Sweep, proposed
from paredown.sweep.planning import Planned, prepared
from paredown.sweep.tree import Tree

FILE = "search.journal"
MOST = 10  # proposals for each experiment that is asked for


class SearchTree(Tree):
    """Hands Tune what Optuna proposes, `search.concurrent` at a time, in the order in which it can start.

    Optuna's journal in `folder` outlives the driver: run again, it goes on with all that was learnt, and proposes anew
    what was in flight. Another space, or another setting of the experiments, is another study.
    """

    def __init__(self, board: Board, search: Search, folder: Path) -> None:
        super().__init__(board)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = JournalStorage(JournalFileBackend(str(folder / FILE)))
        metrics = board.metrics
        one = not search.cost and search.algorithm != "nsga2"
        name = _study(board.plan.sweep, search, one)
        self.search = search
        self._asked: dict[str, list[str]] = {}  # the proposals that wait for an experiment's result
        self._count = 0
        for values in _take_up(storage, name):
            board.add(next(prepared(board.plan.sweep, [proposed(board.plan.sweep, values)])))
        self.proposer = OptunaSearch(
            {key: _distribution(dimension) for key, dimension in search.space.items()},
            metric=metrics.accuracy if one else [metrics.accuracy, metrics.cost],
            mode="max" if one else ["max", "min"],
            sampler=_sampler(search),
            study_name=name,
            storage=storage,
        )

    @property
    def left(self) -> bool:
        """Whether to propose more: most proposals are new experiments, but a small space may have no more to offer."""
        return len(self.board.points) < self.search.trials and self._count < MOST * self.search.trials

    @property
    def _exhausted(self) -> bool:
        return super()._exhausted and not self.left

    def _choose(self) -> Planned | None:
        while self.left and len(self.board.waiting) + len(self.board.running) < self.search.concurrent:
            self._propose()
        return super()._choose()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna what an experiment gave."""
        super().on_trial_complete(trial_id, result, error)
        for key in [*self.board.results, *self.board.failed, *self.board.stopped]:
            self._answer(key)

    def _propose(self) -> None:
        self._count += 1
        name = f"{self._count}"
        point = proposed(self.board.plan.sweep, self.proposer.suggest(name) or {})
        try:
            (planned,) = prepared(self.board.plan.sweep, [point])
            self._add(planned, name)
        except UserError:  # a target that cannot be met, say: Optuna learns to leave that corner
            self.proposer.on_trial_complete(name, error=True)
        except OSError:  # the store is away, which says nothing of the proposal
            self._count -= 1
            self.proposer.on_trial_complete(name, error=True)
            raise

    def _add(self, planned: Planned, name: str) -> None:
        key = planned.experiment.key
        if key not in self.board.planned:
            self.board.add(planned)
        self._asked.setdefault(key, []).append(name)
        self._answer(key)

    def _answer(self, key: str) -> None:
        if key in self.board.running or key in {planned.experiment.key for planned in self.board.waiting}:
            return
        for name in self._asked.pop(key, []):
            row = self.board.results.get(key)
            self.proposer.on_trial_complete(name, result=row, error=key in self.board.failed)


def _study(sweep: Sweep, search: Search, one: bool) -> str:
    """The sweep's name and what its results depend on: its space, its metrics, and an experiment of it by its key."""
    first = proposed(sweep, {key: dimension.first for key, dimension in search.space.items()})
    (planned,) = prepared(sweep, [first])
    return f"{sweep.name}-{digest([search.space, sweep.metrics, one, planned.experiment.key])[:8]}"


def _take_up(storage: BaseStorage, name: str) -> list[dict[str, Any]]:
    """What an earlier try has results of; what it had in flight is put first in the queue."""
    if name not in optuna.get_all_study_names(storage):
        return []
    study = optuna.load_study(study_name=name, storage=storage)
    trials = study.get_trials(deepcopy=False)
    queued = [trial.system_attrs.get("fixed_params") for trial in trials if trial.state == TrialState.WAITING]
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
            if trial.params not in queued:
                study.enqueue_trial(trial.params)
    return [trial.params for trial in trials if trial.state == TrialState.COMPLETE]


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices:
        return CategoricalDistribution(list(dimension.choices))
    assert dimension.low is not None and dimension.high is not None
    if isinstance(dimension.low, int) and isinstance(dimension.high, int):
        return IntDistribution(dimension.low, dimension.high, log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def _sampler(search: Search) -> BaseSampler:
    if search.algorithm == "random":
        return RandomSampler(seed=search.seed)
    if search.algorithm == "nsga2":
        return NSGAIISampler(seed=search.seed, population_size=max(2, min(50, search.trials // 3)))
    return TPESampler(seed=search.seed, multivariate=True, n_startup_trials=max(3, min(10, search.trials // 3)))
