"""Hyperparameter search: Optuna proposes experiments through Ray's OptunaSearch; its journal is kept with the sweep."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search.optuna import OptunaSearch

from paredown.core.errors import UserError
from paredown.core.keys import digest
from paredown.sweep.planning import Planned, prepare_points
from paredown.sweep.progress import Progress
from paredown.sweep.searcher import StageSearcher
from paredown.sweep.spec import Dimension, Search, Sweep, proposed

FILE = "search.journal"
MAX_PROPOSALS = 10  # per experiment that is asked for


class OptunaStageSearcher(StageSearcher):
    """Submits the proposals of Optuna to Tune, at most `search.concurrent` at a time.

    Optuna's journal in `folder` survives the driver: the same command continues the study with all earlier results and
    proposes again what was running. Another space, or other settings of the experiments, make another study.
    """

    def __init__(self, progress: Progress, search: Search, folder: Path) -> None:
        super().__init__(progress)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = JournalStorage(JournalFileBackend(str(folder / FILE)))
        metrics = progress.metrics
        single = not search.cost and search.algorithm != "nsga2"
        name = _study_name(progress.plan.sweep, search, single)
        self.search = search
        self._proposals: dict[str, list[str]] = {}  # proposal ids that wait for a result, by the experiment's key
        self._count = 0
        for values in _restore_study(storage, name):
            progress.add(next(prepare_points(progress.plan.sweep, [proposed(progress.plan.sweep, values)])))
        self.proposer = OptunaSearch(
            {key: _distribution(dimension) for key, dimension in search.space.items()},
            metric=metrics.accuracy if single else [metrics.accuracy, metrics.cost],
            mode="max" if single else ["max", "min"],
            sampler=_sampler(search),
            study_name=name,
            storage=storage,
        )

    @property
    def left(self) -> bool:
        """Whether to propose more. The number of proposals is limited, since a small space may be used up."""
        limit = MAX_PROPOSALS * self.search.trials
        return len(self.progress.points) < self.search.trials and self._count < limit

    @property
    def _exhausted(self) -> bool:
        return super()._exhausted and not self.left

    def _choose(self) -> Planned | None:
        while self.left and len(self.progress.waiting) + len(self.progress.running) < self.search.concurrent:
            self._propose()
        return super()._choose()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record the end of a trial and report every available result to Optuna."""
        super().on_trial_complete(trial_id, result, error)
        for key in [*self.progress.results, *self.progress.failed, *self.progress.stopped]:
            self._report_result(key)

    def _propose(self) -> None:
        self._count += 1
        name = f"{self._count}"
        point = proposed(self.progress.plan.sweep, self.proposer.suggest(name) or {})
        try:
            (planned,) = prepare_points(self.progress.plan.sweep, [point])
            self._add(planned, name)
        except UserError:  # for example an impossible target: Optuna learns to avoid that region
            self.proposer.on_trial_complete(name, error=True)
        except OSError:  # the store is unreachable: not the proposal's fault
            self._count -= 1
            self.proposer.on_trial_complete(name, error=True)
            raise

    def _add(self, planned: Planned, name: str) -> None:
        key = planned.experiment.key
        if key not in self.progress.planned:
            self.progress.add(planned)
        self._proposals.setdefault(key, []).append(name)
        self._report_result(key)

    def _report_result(self, key: str) -> None:
        if key in self.progress.running or key in {planned.experiment.key for planned in self.progress.waiting}:
            return
        for name in self._proposals.pop(key, []):
            row = self.progress.results.get(key)
            self.proposer.on_trial_complete(name, result=row, error=key in self.progress.failed)


def _study_name(sweep: Sweep, search: Search, single: bool) -> str:
    """Return the sweep's name with a digest of all that its results depend on: space, metrics, and the key of one
    experiment."""
    first = proposed(sweep, {key: dimension.first for key, dimension in search.space.items()})
    (planned,) = prepare_points(sweep, [first])
    space = {key: asdict(dimension) for key, dimension in search.space.items()}
    return f"{sweep.name}-{digest([space, asdict(sweep.metrics), single, planned.experiment.key])[:8]}"


def _restore_study(storage: BaseStorage, name: str) -> list[dict[str, Any]]:
    """Return the values of all completed trials of an earlier run, and enqueue those that were running."""
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
