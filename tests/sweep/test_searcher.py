"""The order of submission: nothing trained twice, no worker waiting, a failed stage fails what needs it and no more."""

from __future__ import annotations

import json
import time

import pytest
from steps import words

from paredown.store.states import Store
from paredown.sweep.planning import plan
from paredown.sweep.progress import Progress
from paredown.sweep.spec import load
from paredown.sweep.worker import perform

FINISHED = pytest.importorskip("ray.tune.search").Searcher.FINISHED
OFF = ["tracking=off", "recipe.epochs=1", "dataset.fraction=0.05"]


def make(written, text, *more):
    from paredown.sweep.searcher import StageSearcher

    progress = Progress(plan(load([*written(text), *OFF, *more])))
    return progress, StageSearcher(progress)


def ask(searcher, trial):
    searcher._polled_at = 0.0
    return searcher.suggest(trial)


def work(searcher, trial, given):
    reports = []
    perform(json.loads(given["spec"]), reports.append)
    for report in reports:
        searcher.on_trial_result(trial, report)
    searcher.on_trial_complete(trial, reports[-1])
    return reports[-1]


def run_all(progress, searcher):
    for number in range(2 * len(progress.planned)):
        given = ask(searcher, str(number))
        if given == FINISHED:
            return
        assert given is not None, "everything waits, and nothing runs"
        work(searcher, str(number), given)


def names(progress, keys):
    return sorted(progress.plan.steps[key].stage.name for key in keys)


@pytest.mark.slow
def test_a_grid_of_2_decays_and_3_energies_makes_1_and_2_and_6_fits(written) -> None:
    progress, searcher = make(written, words([0.1, 0.2], [0.1, 0.2, 0.3]))
    run_all(progress, searcher)
    assert len(progress.results) == 6 and not progress.failed
    assert names(progress, progress.trained) == ["finetune"] * 6 + ["full_rank"] + ["sparsify"] * 2


@pytest.mark.slow
def test_a_grid_of_4_decays_and_6_energies_makes_29_fits_and_not_72(written) -> None:
    progress, searcher = make(written, words([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    assert progress.plan.images_unshared == 72 / 29 * progress.plan.images_shared
    run_all(progress, searcher)
    assert names(progress, progress.trained) == ["finetune"] * 24 + ["full_rank"] + ["sparsify"] * 4


def test_what_needs_a_running_stage_is_held_back(written) -> None:
    _, searcher = make(written, words([0.1, 0.2], [0.1, 0.2]))
    first = ask(searcher, "a")
    assert ask(searcher, "b") is None  # all need full_rank, which "a" makes
    work(searcher, "a", first)
    others = [ask(searcher, name) for name in "bcd"]
    decays = [json.loads(given["spec"])["config"]["method"]["decay"] for given in others[:2]]
    assert decays == [0.2, 0.1] and others[2] is None  # two wait for nobody, the fourth for "b"


def test_a_stage_that_another_process_holds_is_waited_for(written) -> None:
    progress, searcher = make(written, words([0.1], [0.1]))
    planned = progress.plan.experiments[0]
    with planned.experiment.store.lock(planned.missing[0].key):
        assert ask(searcher, "a") is None
    assert ask(searcher, "a") is not None


@pytest.mark.slow
def test_a_failed_stage_fails_what_needs_it_and_no_more(written) -> None:
    progress, searcher = make(written, words([0.1], [0.1, 2.0]) + "points: [[method=dense]]\n")
    run_all(progress, searcher)
    assert len(progress.results) == 2 and list(progress.failed.values()) == [
        "ValueError: no energy is above 1, not even 2.0"
    ]
    progress, searcher = make(written, words([1e30, 0.1], [0.1, 0.2]), "seed=4", "recipe.epochs=2")
    run_all(progress, searcher)
    reasons = sorted(progress.failed.values())
    assert len(progress.results) == 2 and reasons[0].startswith("FloatingPointError: training diverged")
    assert reasons[1].startswith("needs sparsify of method.decay=1e+30 +method.energy=0.1, which failed")


def test_what_failed_outside_of_a_stage_fails_nothing_else(written) -> None:
    progress, searcher = make(written, words([0.1], [0.1, 0.2]))
    given = json.loads(ask(searcher, "a")["spec"])
    work(searcher, "a", {"spec": json.dumps(given | {"key": "another"})})
    assert len(progress.failed) == 1 and len(progress.waiting) == 1
    run_all(progress, searcher)
    assert len(progress.results) == 1


def test_a_store_that_is_away_is_asked_again(written, monkeypatch, caplog) -> None:
    progress, searcher = make(written, words([0.1], [0.1, 0.2]))
    with monkeypatch.context() as patched:
        patched.setattr(Store, "has", lambda store, key: raising(OSError("no route to host")))
        assert ask(searcher, "a") is None and ask(searcher, "a") is None
        assert caplog.text.count("no route to host") == 1  # said once
        progress.submit(progress.waiting[0])
        searcher.trials["b"] = next(iter(progress.running.values()))
        searcher.on_trial_complete("b", error=True)
    assert list(progress.failed.values()) == ["its process died"] and ask(searcher, "c") is not None


def raising(error: Exception) -> bool:
    raise error


def test_a_resumed_sweep_redoes_nothing(written) -> None:
    progress, searcher = make(written, words([0.1], [0.1]))
    run_all(progress, searcher)
    again, searcher = make(written, words([0.1], [0.1, 0.3]))
    assert len(again.reused) == 1
    run_all(again, searcher)
    assert names(again, again.trained) == ["finetune"] and len(again.results) == 2


def test_the_front_the_best_and_the_time_left(written) -> None:
    progress, searcher = make(written, words([0.1], [0.1, 0.2, 0.3]))
    progress.results |= {"a": {"final/top1": 90.0, "cost/macs": 5.0}, "b": {"final/top1": 80.0, "cost/macs": 2.0}}
    progress.results |= {"c": {"final/top1": 79.0, "cost/macs": 3.0}, "d": {"final/top1": 90.0, "cost/macs": 6.0}}
    assert progress.front == [(2.0, 80.0), (5.0, 90.0)] and progress.best == 90.0 and progress.seconds_left is None
    first = ask(searcher, "x")
    progress.started_at = time.monotonic() - 30
    work(searcher, "x", first)  # three of seven fits took 30 seconds or so
    assert progress.seconds_left == pytest.approx(30 * 2 / 3, rel=0.3)
