"""The stopping rules, and the settings of Tune."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import ray
from ray import tune
from ray.tune.schedulers import TrialScheduler

from paredown.sweep.driver import _scheduler, run_trials
from paredown.sweep.planning import plan
from paredown.sweep.progress import Progress
from paredown.sweep.spec import Stop, load

RESULT = {"result": "{}", "trained": []}


@dataclass(eq=False)
class Trial:
    trial_id: str
    status: str = "RUNNING"
    config: dict = field(default_factory=dict)


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_what_lags_behind_those_that_are_done_is_stopped(rule) -> None:
    scheduler = _scheduler(Stop(rule=rule, grace=2))
    trials = [Trial(str(number)) for number in range(5)]
    waiting = Trial("5", "PENDING")  # for which nobody is paused
    controller = SimpleNamespace(get_live_trials=lambda: [*trials, waiting])
    for trial in trials:
        scheduler.on_trial_add(controller, trial)

    def report(trial, epoch, top1) -> str:
        return scheduler.on_trial_result(controller, trial, {"epochs_done": epoch, "val/top1": top1})

    for trial in trials[:4]:
        assert {report(trial, epoch, 90.0) for epoch in (1, 2, 3)} == {TrialScheduler.CONTINUE}
        assert scheduler.on_trial_result(controller, trial, RESULT) == TrialScheduler.CONTINUE
        scheduler.on_trial_complete(controller, trial, RESULT)
    assert report(trials[4], 1, 10.0) == TrialScheduler.CONTINUE  # in its grace
    assert report(trials[4], 2, 10.0) == TrialScheduler.STOP


@pytest.mark.parametrize(("rule", "reuses"), [("none", True), ("asha", False)])
def test_no_process_is_reused_after_a_stop_and_what_tune_loses_has_failed(written, monkeypatch, rule, reuses) -> None:
    class Losing:
        """Tune, but that it takes one experiment and never speaks of it again."""

        def __init__(self, trainable, *, tune_config, run_config) -> None:
            asked.append(tune_config)

        def fit(self) -> None:
            assert asked[0].search_alg.suggest("a")

    asked: list = []
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2}}])
    monkeypatch.setattr(tune, "Tuner", Losing)
    progress = Progress(plan(load([*written("seeds: [0, 1]\n"), "tracking=off", f"stop.rule={rule}"])))
    run_trials(progress, progress.plan.folder, stop=progress.plan.sweep.stop)
    assert asked[0].reuse_actors is reuses
    assert list(progress.failed.values()) == ["Ray Tune lost track of it"] and len(progress.waiting) == 1
