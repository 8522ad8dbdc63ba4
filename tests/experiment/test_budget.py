"""Training budgets: as many training images for every plan, and the images beside them counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.plan import Fit
from paredown.experiment.experiment import Experiment
from paredown.experiment.prepare import prepare
from paredown.run import walk

SMALL = ["dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.1", "tracking=off"]
QUIET = ["latency.seconds=0.02", "trainer.progress=false", "recipe.batch_size=16"]
HALF = ["speed_up=1.5"]


def experiment(output: Path, *words: str) -> Experiment:
    return prepare(compose([*SMALL, *QUIET, f"output={output}", *words]))


def epochs(output: Path, *words: str) -> dict[str, int]:
    fits = [step.stage for step in experiment(output, *words).steps if isinstance(step.stage, Fit)]
    return {fit.name: fit.recipe.epochs for fit in fits}


@pytest.mark.parametrize(
    ("words", "shares"),
    [
        (["method=dense"], [6]),
        (["method=snip", "sparsity=0.5"], [6]),
        (["method=magnitude", "sparsity=0.5"], [3, 3]),
        (["method=zhang", *HALF], [5, 1]),  # published: 4 beside 160, and at least one
        (["method=zhang", *HALF, "budget.reference=8"], [4, 2]),  # 4 beside 8
        (["method=zhang", *HALF, "method.finetune.epochs=0"], [6]),
        (["method=lottery", "sparsity=0.5", "method.rounds=3"], [1, 1, 1, 3]),
    ],
)  # fmt: skip
def test_the_trainings_of_a_plan_share_the_budget_as_published(tmp_path, words, shares) -> None:
    assert list(epochs(tmp_path, *words, "budget.epochs=6").values()) == shares
    images = 6 * experiment(tmp_path, *words).data.sizes["train"]
    assert epochs(tmp_path, *words, f"budget.images={images + 1}") == epochs(tmp_path, *words, "budget.epochs=6")


def test_the_longest_recipe_that_has_room_is_taken(tmp_path) -> None:
    """Against trying every length."""
    words = ["method=svd_training", "speed_up=2", "method.finetune.epochs=60"]
    for budget in range(3, 40, 5):
        found = list(epochs(tmp_path, *words, f"budget.epochs={budget}").values())
        every = [(n, n, max(1, round(60 * n / 160))) for n in range(1, budget)]
        longest = max(one for one in every if sum(one) <= budget)
        assert found == [*longest[:2], budget - sum(longest[:2])]


def test_parts_of_one_training_stay_alike_and_the_rest_of_a_budget_unused(tmp_path) -> None:
    words = ["method=lottery", "sparsity=0.5", "method.rewind=1", "budget.epochs=6"]
    point = experiment(tmp_path, *words, "recipe.schedule=one_cycle")
    start, train, retrain = (step.stage for step in point.steps if isinstance(step.stage, Fit))
    assert [fit.recipe.epochs for fit in (start, train, retrain)] == [1, 2, 2]
    assert [fit.hooks[0].whole.epochs for fit in (start, train, retrain)] == [3, 3, 3]  # type: ignore[attr-defined]


def test_a_budget_decides_in_place_of_the_recipe_and_is_no_part_of_a_key(tmp_path) -> None:
    dense = ["method=dense"]
    keys = [experiment(tmp_path, *dense, *words).key for words in (["recipe.epochs=6"], ["budget.epochs=6"])]
    assert keys[0] == keys[1]
    magnitude = experiment(tmp_path, "method=magnitude", "sparsity=0.5", "budget.epochs=6")
    assert magnitude.dense_key == experiment(tmp_path, *dense, "recipe.epochs=6").steps[-1].key  # the whole budget


def test_a_search_is_not_counted(tmp_path) -> None:
    words = ["method=svd_nas", "method.select=kxk", "method.search.epochs=50", "dataset.validation=20"]
    found = epochs(tmp_path, *words, "budget.epochs=4")
    assert found["search"] == 50 and sum(found.values()) - 50 == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["budget.epochs=2", "budget.images=2"], "budget.images and budget.epochs are both set"),
        (["budget.images=5"], r"budget.images=5 is less than one epoch: there are \d+ training images"),
        (["budget.epochs=0"], r"budget.epochs=0 \(at least 1, or null\)"),
        (
            ["method=lottery", "sparsity=0.5", "method.rounds=9", "budget.epochs=9"],
            "budget.epochs=9 is too little: this plan takes 1,290 images with one epoch a training",
        ),
        (
            ["method=lottery", "sparsity=0.5", "method.rewind=5", "budget.epochs=6"],
            "method.rewind=5 is beyond the training: recipe.epochs=5, as budget.epochs=6 shares it",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, words, message) -> None:
    with pytest.raises(UserError, match=message):
        _ = experiment(tmp_path, *words).steps


def test_images_and_those_beside_them_are_recorded_by_stage(tmp_path) -> None:
    words = [*SMALL, *QUIET, f"output={tmp_path}", "method=snip", "method.per_class=2", "sparsity=0.5"]
    result = walk.run([*words, "budget.epochs=2"])
    training = experiment(tmp_path).data.sizes["train"]
    assert result.metrics["price/images"] == 2 * training
    assert result.metrics["price/other_images"] == 10 * 2  # classes x per_class
    assert result.metrics["price/compression_images"] == 2 * training + 10 * 2  # it begins with the pruning
    half = result.metrics["cost/params"] - result.metrics["cost/weights"]  # batch norm, biases, and half of the weights
    assert 4 * (half + result.metrics["cost/weights"]) < result.metrics["cost/bytes"]
    assert result.metrics["cost/bytes"] < 4 * 2 * (half + result.metrics["cost/weights"])
    assert len(json.loads((result.state / "stage.json").read_text())["history"]) == 2


@pytest.mark.parametrize(
    ("words", "finetuned"),
    [(["method=dense"], 0), (["method=lr_s2", "speed_up=2"], 0), (["method=magnitude", "sparsity=0.5"], 1)],
)
def test_images_after_the_dense_training_are_those_of_the_compression(tmp_path, words, finetuned) -> None:
    result = walk.run([*SMALL, *QUIET, f"output={tmp_path}", *words, "budget.epochs=2"])
    assert result.metrics["price/images"] == 2 * (training := experiment(tmp_path).data.sizes["train"])
    assert result.metrics["price/compression_images"] == finetuned * training


def test_a_control_sees_the_images_of_the_whole_plan(tmp_path) -> None:
    words = [*SMALL, *QUIET, f"output={tmp_path}", "method=magnitude", "sparsity=0.5", "budget.epochs=2"]
    walk.run(words)
    control = prepare(compose([*words, "control=random"]))
    (fit,) = (step.stage for step in control.steps if isinstance(step.stage, Fit))
    assert fit.recipe.epochs == 2
