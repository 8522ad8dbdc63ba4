"""The rules that end experiments early, told what trials report: epochs, and last a result without an epoch."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
from ray.tune.schedulers import TrialScheduler

from paredown.sweep.driver import _scheduler
from paredown.sweep.file import Stop

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

    def hear(trial, epoch, top1) -> str:
        return scheduler.on_trial_result(controller, trial, {"epochs_done": epoch, "val/top1": top1})

    for trial in trials[:4]:
        assert {hear(trial, epoch, 90.0) for epoch in (1, 2, 3)} == {TrialScheduler.CONTINUE}
        assert scheduler.on_trial_result(controller, trial, RESULT) == TrialScheduler.CONTINUE
        scheduler.on_trial_complete(controller, trial, RESULT)
    assert hear(trials[4], 1, 10.0) == TrialScheduler.CONTINUE  # in its grace
    assert hear(trials[4], 2, 10.0) == TrialScheduler.STOP
