"""Searches: Optuna proposes, what it learnt outlives the driver, nothing is proposed twice for nothing."""

from __future__ import annotations

import json
import sys

import pytest

from paredown.store.states import Store
from paredown.sweep.planning import plan
from paredown.sweep.progress import Progress
from paredown.sweep.spec import load

FINISHED = pytest.importorskip("ray.tune.search").Searcher.FINISHED
SPACE = """
search:
  algorithm: {algorithm}
  trials: {trials}
  concurrent: 2
  space:
    sparsity: {{low: 0.5, high: 0.93}}
    recipe.weight_decay: {{low: 1.0e-5, high: 1.0e-2, log: true}}
    method.parity: {{choices: [halves, alternate]}}
    recipe.batch_size: {{low: 32, high: 64}}
"""


def make(written, tmp_path, algorithm="random", trials=4, more=()):
    from paredown.sweep.search import OptunaStageSearcher

    text = SPACE.format(algorithm=algorithm, trials=trials)
    progress = Progress(plan(load([*written(text), "method=ssc", "tracking=off", *more])))
    assert progress.plan.sweep.search
    return progress, OptunaStageSearcher(progress, progress.plan.sweep.search, tmp_path)


def accuracy(config) -> float:
    """Compute a made-up accuracy: the best weight decay is 1e-3, dense networks are better."""
    return 100 - 10 * abs(config["recipe"]["weight_decay"] - 1e-3) * 1e3 - 20 * config["sparsity"]


def answer(searcher, trial, given) -> None:
    config = json.loads(given["spec"])["config"]
    row = {"final/top1": accuracy(config), "cost/macs": 1 - config["sparsity"]}
    searcher.on_trial_complete(trial, {"result": json.dumps(row), "trained": []})


def run_all(searcher) -> list[dict]:
    configs: list[dict] = []
    for number in range(200):
        searcher._polled_at = 0.0
        given = searcher.suggest(str(number))
        if given == FINISHED:
            return configs
        assert given is not None
        configs.append(json.loads(given["spec"])["config"])
        answer(searcher, str(number), given)
    raise AssertionError("it never ends")


@pytest.mark.parametrize("algorithm", ["random", "tpe", "nsga2"])
def test_a_search_stays_in_its_space_and_ends(written, tmp_path, algorithm) -> None:
    progress, searcher = make(written, tmp_path, algorithm, trials=8)
    configs = run_all(searcher)
    assert len(configs) == len(progress.results) == 8
    for config in configs:
        assert 0.5 <= config["sparsity"] <= 0.93 and 1e-5 <= config["recipe"]["weight_decay"] <= 1e-2
        assert 32 <= config["recipe"]["batch_size"] <= 64 and isinstance(config["recipe"]["batch_size"], int)
        assert config["method"]["parity"] in ("halves", "alternate")


@pytest.mark.slow
def test_tpe_is_better_than_chance(written, tmp_path) -> None:
    def mean(algorithm: str) -> float:
        folder = tmp_path / algorithm
        folder.mkdir()
        more = ["search.cost=false", f"output={folder}/out", "search.concurrent=1"]
        found = [accuracy(config) for config in run_all(make(written, folder, algorithm, 24, more)[1])]
        return sum(found[12:]) / 12

    assert mean("tpe") > mean("random") + 3


def test_no_more_than_asked_for_run_at_once(written, tmp_path) -> None:
    _, searcher = make(written, tmp_path)
    given = []
    for name in "abc":
        searcher._polled_at = 0.0
        given.append(searcher.suggest(name))
    assert given[0] and given[1] and given[2] is None
    answer(searcher, "a", given[0])
    assert searcher.suggest("d")


def test_a_search_goes_on_with_what_it_learnt_and_what_was_in_flight(written, tmp_path) -> None:
    from paredown.sweep import search

    progress, searcher = make(written, tmp_path, trials=5)
    first, second = searcher.suggest("a"), searcher.suggest("b")
    answer(searcher, "a", first)  # of "b" nothing was heard
    storage = search.JournalStorage(search.JournalFileBackend(str(tmp_path / search.FILE)))
    known = search._restore_study(storage, search._study_name(progress.plan.sweep, searcher.search, single=False))
    assert [values["sparsity"] for values in known] == [json.loads(first["spec"])["config"]["sparsity"]]
    _, again = make(written, tmp_path, trials=5)
    third = again.suggest("c")
    config = json.loads(second["spec"])["config"]
    assert json.loads(third["spec"])["config"]["sparsity"] in (
        config["sparsity"],
        json.loads(first["spec"])["config"]["sparsity"],  # its result was only told, its experiment never run
    )


@pytest.mark.slow
def test_a_store_that_is_away_uses_up_no_proposal(written, tmp_path, monkeypatch) -> None:
    def away(store, key):
        raise OSError("no route to host")

    _, searcher = make(written, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "has", away)
        patched.setattr(Store, "pull", away)
        for number in range(100):
            searcher._polled_at = 0.0
            assert searcher.suggest(str(number)) is None
    assert len(run_all(searcher)) == 4


@pytest.mark.parametrize("other", ["recipe.epochs=1", "search.cost=false", "choices: [halves]"])
def test_another_problem_is_another_study(written, tmp_path, monkeypatch, other) -> None:
    more = ["search.cost=true"]
    run_all(make(written, tmp_path, algorithm="tpe", more=more)[1])
    with monkeypatch.context() as patched:
        if "choices" in other:  # of which Optuna allows no study to change its mind
            patched.setattr(sys.modules[__name__], "SPACE", SPACE.replace("choices: [halves, alternate]", other))
        else:
            more.append(other)
        progress, searcher = make(written, tmp_path, algorithm="tpe", more=more)
        assert not progress.points and len(run_all(searcher)) == 4
    progress, searcher = make(written, tmp_path, algorithm="tpe", more=more[:1])
    assert len(progress.points) == 4 and not searcher.left


@pytest.mark.slow
def test_a_small_space_ends_too(written, tmp_path) -> None:
    from paredown.sweep.search import OptunaStageSearcher

    text = "search: {trials: 10, space: {latency.batch: {choices: [1, 2]}}}\n"
    progress = Progress(plan(load([*written(text), "tracking=off"])))
    assert progress.plan.sweep.search
    searcher = OptunaStageSearcher(progress, progress.plan.sweep.search, tmp_path)
    for number in range(200):
        searcher._polled_at = 0.0
        given = searcher.suggest(str(number))
        if given == FINISHED:
            break
        searcher.on_trial_complete(str(number), {"result": '{"final/top1": 1, "cost/macs": 1}', "trained": []})
    assert given == FINISHED and len(progress.results) == 2


MISTAKES = {
    "search: {trials: 3}": "search.space is not set",
    "search: {space: {}}": "search.space={} (at least one key: {low: .., high: ..})",
    "search: {trials: 0, concurrent: 0, space: {sparsity: {low: 0.1, high: 0.2}}}": (
        "search.trials=0 (at least 1); search.concurrent=0 (at least 1)"
    ),
    "search: {space: {sparsity: {low: 2, high: 1}}}": "needs choices, or low below high",
    "search: {space: {sparsity: {low: 0, high: 1, log: true}}}": "low above 0 where log is set",
    "search: {space: {sparsity: {lo: 0.1}}}": "did you mean low",
    "search: {algorithm: grid, space: {sparsity: {low: 0.1, high: 0.2}}}": "search.algorithm='grid'",
    "search: {space: {sparcity: {low: 0.1, high: 0.2}}}": "unknown key 'sparcity': did you mean sparsity",
    "search: {space: {sparsity: {low: 0.1, high: 0.2}}}\ngrid: {seed: [1]}": "it is one or the other",
    "stop: {rule: ahsa}": "stop.rule='ahsa'",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_one_line(written, text) -> None:
    from paredown.core.errors import UserError

    with pytest.raises(UserError) as raised:
        plan(load([*written(text + "\n"), "method=ssc"]))
    assert MISTAKES[text] in str(raised.value) and "\n" not in str(raised.value)
