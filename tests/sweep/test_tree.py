"""What is handed out when: nothing trained twice, nobody waits, and a failed stage fails what needs it and no more."""

from __future__ import annotations

import json
import time

import pytest
from steps import words

from paredown.store import Store
from paredown.sweep.board import Board
from paredown.sweep.file import load
from paredown.sweep.planning import plan
from paredown.sweep.work import perform

searcher = pytest.importorskip("ray.tune.search").Searcher
OFF = ["tracking=off", "recipe.epochs=1", "dataset.fraction=0.05"]


def make(written, text, *more):
    from paredown.sweep import tree

    board = Board(plan(load([*written(text), *OFF, *more])))
    return board, tree.Tree(board)


def ask(tree, trial):
    tree._looked = 0.0
    return tree.suggest(trial)


def work(tree, trial, given):
    reports = []
    perform(json.loads(given["work"]), reports.append)
    for report in reports:
        tree.on_trial_result(trial, report)
    tree.on_trial_complete(trial, reports[-1])
    return reports[-1]


def run_all(board, tree):
    for number in range(2 * len(board.planned)):
        given = ask(tree, str(number))
        if given == searcher.FINISHED:
            return
        assert given is not None, "everything waits, and nothing runs"
        work(tree, str(number), given)


def names(board, keys):
    return sorted(board.plan.steps[key].stage.name for key in keys)


def test_a_grid_of_2_decays_and_3_energies_makes_1_and_2_and_6_fits(written) -> None:
    board, tree = make(written, words([0.1, 0.2], [0.1, 0.2, 0.3]))
    run_all(board, tree)
    assert len(board.results) == 6 and not board.failed
    assert names(board, board.trained) == ["finetune"] * 6 + ["full_rank"] + ["sparsify"] * 2


@pytest.mark.slow
def test_a_grid_of_4_decays_and_6_energies_makes_29_fits_and_not_72(written) -> None:
    board, tree = make(written, words([0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    assert board.plan.images_alone == 72 / 29 * board.plan.images_shared
    run_all(board, tree)
    assert names(board, board.trained) == ["finetune"] * 24 + ["full_rank"] + ["sparsify"] * 4


def test_what_needs_a_running_stage_is_held_back(written) -> None:
    _, tree = make(written, words([0.1, 0.2], [0.1, 0.2]))
    first = ask(tree, "a")
    assert ask(tree, "b") is None  # all need full_rank, which "a" makes
    work(tree, "a", first)
    others = [ask(tree, name) for name in "bcd"]
    decays = [json.loads(given["work"])["config"]["method"]["decay"] for given in others[:2]]
    assert decays == [0.2, 0.1] and others[2] is None  # two wait for nobody, the fourth for "b"


def test_a_stage_that_another_process_holds_is_waited_for(written) -> None:
    board, tree = make(written, words([0.1], [0.1]))
    planned = board.plan.experiments[0]
    with planned.experiment.store.lock(planned.missing[0].key):
        assert ask(tree, "a") is None
    assert ask(tree, "a") is not None


def test_a_failed_stage_fails_what_needs_it_and_no_more(written) -> None:
    board, tree = make(written, words([0.1], [0.1, 2.0]) + "points: [[method=dense]]\n")
    run_all(board, tree)
    assert len(board.results) == 2 and list(board.failed.values()) == ["ValueError: no energy is above 1, not even 2.0"]
    board, tree = make(written, words([1e30, 0.1], [0.1, 0.2]), "seed=4", "recipe.epochs=2")
    run_all(board, tree)
    reasons = sorted(board.failed.values())
    assert len(board.results) == 2 and reasons[0].startswith("FloatingPointError: training diverged")
    assert reasons[1].startswith("needs sparsify of method.decay=1e+30 +method.energy=0.1, which failed")


def test_what_failed_outside_of_a_stage_fails_nothing_else(written) -> None:
    board, tree = make(written, words([0.1], [0.1, 0.2]))
    given = json.loads(ask(tree, "a")["work"])
    work(tree, "a", {"work": json.dumps(given | {"key": "another"})})
    assert len(board.failed) == 1 and len(board.waiting) == 1
    run_all(board, tree)
    assert len(board.results) == 1


def test_a_store_that_is_away_is_asked_again(written, monkeypatch, caplog) -> None:
    board, tree = make(written, words([0.1], [0.1, 0.2]))
    with monkeypatch.context() as patched:
        patched.setattr(Store, "has", lambda store, key: raising(OSError("no route to host")))
        assert ask(tree, "a") is None and ask(tree, "a") is None
        assert caplog.text.count("no route to host") == 1  # said once
        board.start(board.waiting[0])
        tree.runs["b"] = next(iter(board.running.values()))
        tree.on_trial_complete("b", error=True)
    assert list(board.failed.values()) == ["its process died"] and ask(tree, "c") is not None


def raising(error: Exception) -> bool:
    raise error


def test_a_resumed_sweep_redoes_nothing(written) -> None:
    board, tree = make(written, words([0.1], [0.1]))
    run_all(board, tree)
    again, tree = make(written, words([0.1], [0.1, 0.3]))
    assert len(again.reused) == 1
    run_all(again, tree)
    assert names(again, again.trained) == ["finetune"] and len(again.results) == 2


def test_the_front_the_best_and_the_time_left(written) -> None:
    board, tree = make(written, words([0.1], [0.1, 0.2, 0.3]))
    board.results |= {"a": {"final/top1": 90.0, "cost/macs": 5.0}, "b": {"final/top1": 80.0, "cost/macs": 2.0}}
    board.results |= {"c": {"final/top1": 79.0, "cost/macs": 3.0}, "d": {"final/top1": 90.0, "cost/macs": 6.0}}
    assert board.front == [(2.0, 80.0), (5.0, 90.0)] and board.best == 90.0 and board.seconds_left is None
    first = ask(tree, "x")
    board.started = time.monotonic() - 30
    work(tree, "x", first)  # three of seven fits took 30 seconds or so
    assert board.seconds_left == pytest.approx(30 * 2 / 3, rel=0.3)
