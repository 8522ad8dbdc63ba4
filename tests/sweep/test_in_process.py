"""The reports of an experiment in this process, and the state that the next one must not find."""

from __future__ import annotations

import pytest
from steps import words

from paredown.sweep import multi_node, multi_process
from paredown.sweep.in_process import WorkerDied, epoch_report, first_line
from paredown.sweep.planning import plan
from paredown.sweep.spec import Resources, load
from paredown.sweep.worker import perform, trial_spec


def planned(written, *more):
    return plan(load([*written(words([0.1], [0.1])), "recipe.epochs=3", "tracking=off", *more])).experiments[0]


def test_epochs_are_counted_over_all_fits(written) -> None:
    experiment = planned(written).experiment
    images = experiment.steps[0].data.sizes["train"]
    found = [(epoch_report(experiment, step, 1), step) for step in experiment.steps if step.stage.name != "prune"]
    assert [report["epochs_done"] for report, _ in found] == [2, 3 + 2, 3 + 3 + 2]
    assert [(report["epoch"], report["epochs"], report["images"]) for report, _ in found] == [(2, 3, 2 * images)] * 3
    assert [(report["stage"], report["key"]) for report, _ in found] == [(s.stage.name, s.key) for _, s in found]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("too large\nby far"), "ValueError: too large"),
        (KeyError(), "KeyError"),
        (OSError(" \n"), "OSError"),
    ],
)
def test_an_error_is_reported_in_one_line(error, line) -> None:
    assert first_line(error) == line


@pytest.mark.parametrize(
    ("room", "more"),
    [(multi_process, []), (multi_node, ["resources.across_nodes=true"])],
    ids=["process", "node"],
)
def test_a_dead_worker_is_raised_for_ray_to_retry_and_any_other_error_is_reported(
    written, monkeypatch, room, more
) -> None:
    errors, reports = [WorkerDied("rank 1 ended by SIGKILL"), RuntimeError("ValueError: too large")], []
    monkeypatch.setattr(room, "run", lambda *_: (_ for _ in ()).throw(errors.pop(0)))
    resources = Resources(workers=2, across_nodes=bool(more))
    spec = trial_spec(planned(written, "resources.workers=2", *more), resources, "me")
    with pytest.raises(WorkerDied):
        perform(spec, reports.append)
    assert not reports
    perform(spec, reports.append)
    assert reports[0]["failed"] == "RuntimeError: ValueError: too large" and "failed_in" not in reports[0]


def test_an_error_of_this_process_names_its_stage(written) -> None:
    given = plan(load([*written(words([0.1], [2.0])), "recipe.epochs=1", "tracking=off"])).experiments[0]
    reports = []
    perform(trial_spec(given, Resources(), "me"), reports.append)
    prune = next(step for step in given.experiment.steps if step.stage.name == "prune")
    assert reports[-1]["failed_in"] == prune.key and reports[-1]["failed"].startswith("ValueError: no energy is above")
