"""The skeleton of decompositions after training: its stages, its one goal, its metrics."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from torch import nn

from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Outcome
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target
from paredown.experiment.prepare import prepare
from paredown.methods.families import DecomposeTrained, gains, only_goal, rank_metrics, rank_notes
from paredown.methods.low_rank.svd_training import SVDTraining

RECIPE = Recipe(epochs=3)


@identity("test/decompose")
def nothing(network, context) -> None:
    pass


@dataclass(frozen=True)
class Decomposition(DecomposeTrained):
    def decomposition(self, target: Target | None, network: Network) -> Edit:
        return Edit("decompose", nothing)


class Finetuned(Decomposition):
    finetunes: ClassVar[bool] = True


def stages(method: DecomposeTrained, pretrained: bool = False) -> list[str]:
    network = Network(nn.Identity(), {}, (3, 8, 8), pretrained=pretrained)
    return [stage.name for stage in method.plan(None, network, RECIPE)]


def test_brought_weights_are_not_trained_and_finetuning_is_done_if_asked() -> None:
    assert stages(Decomposition()) == ["train", "decompose"] and stages(Decomposition(), True) == ["decompose"]
    two = RecipeOverrides(epochs=2)
    assert stages(Decomposition(finetune=two), True) == ["decompose", "finetune"]
    assert stages(Finetuned(), True) == ["decompose", "finetune"]  # null: as long as the recipe says
    assert stages(Finetuned(finetune=RecipeOverrides(epochs=0))) == ["train", "decompose"]
    assert Decomposition(finetune=two).plan(None, Network(nn.Identity(), {}, (3, 8, 8)), RECIPE)[2].recipe.epochs == 2


NONE = ["method.finetune.epochs=0", "sparsity=0.5"]
RATE, MILESTONES = "method.finetune.learning_rate=0.1", "method.finetune.milestones=[0.5]"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["method=lr_s2", "sparsity=0.2", RATE], "finetune.learning_rate is set, but nothing is finetuned"),
        (["method=trp", RATE], "finetune.learning_rate .*with method.finetune.epochs=0"),
        (["method=zhang", "method.finetune.epochs=0", "speed_up=1.5", MILESTONES], "finetune.milestones"),
        *(
            (["method=" + name, *NONE, RATE], "learning_rate")
            for name in ("magnitude", "obd", "l1_filters", "slimming")
        ),
        (["method=nisp", "method.finetune={epochs:0,milestones:[0.5]}", "sparsity=0.5"], "finetune.milestones"),
        (["method=cnn_fcf", "++method.finetune.learning_rate=1", *NONE], "finetune.learning_rate"),
        (["method=magnitude", "sparsity=0.5", "method.before_training=true", "method.finetune.epochs=2"], "before_tr"),
        (
            ["method=group_norm", "method.decay=0", "method.sparse.epochs=3", "sparsity=0.5"],
            "left out .*method.decay=0",
        ),
        *((["method=" + name, *NONE], None) for name in ("magnitude", "l1_filters", "nisp", "zhang")),
        (["method=trp", "method.finetune.epochs=2", RATE], None),
        (["method=lr_s2", "sparsity=0.2", "method.finetune.learning_rate=null"], None),
    ],
)
def test_typed_settings_of_a_training_that_never_happens_are_refused(words, said, tmp_path: Path) -> None:
    small = ["dataset=digits", "model=resnet20", "model.depth=8", "recipe.precision=32", f"output={tmp_path}"]
    if said is None:
        prepare(compose([*small, *words]))
        return
    with pytest.raises(UserError, match=said):
        prepare(compose([*small, *words]))


def test_exactly_one_goal_is_taken() -> None:
    target = Target("speed_up", 2)
    assert only_goal("m", "ranks", target, {"energy": None, "ranks": None}) == Goal("speed_up", 2)
    assert only_goal("m", "ranks", None, {"energy": 0.1, "ranks": None}) == Goal("energy", 0.1)
    takes = r"m takes its ranks from one of sparsity=, speed_up=, method\.energy= and method\.ranks=, got "
    with pytest.raises(UserError, match=takes + "none"):
        only_goal("m", "ranks", None, {"energy": None, "ranks": None})
    with pytest.raises(UserError, match=takes + r"speed_up=2 and method\.ranks=\{'conv': 1\}"):
        only_goal("m", "ranks", target, {"energy": None, "ranks": {"conv": 1}})


def test_a_goal_knows_its_target_and_its_number() -> None:
    assert Goal("sparsity", 0.5).target() == Target("sparsity", 0.5) and Goal.of(Target("speed_up", 3)).number() == 3
    assert Goal("energy", 0.1).target() is None and str(Goal("energy", "auto")) == "energy=auto"
    with pytest.raises(TypeError, match="energy=auto is not a number"):
        Goal("energy", "auto").number()


def outcome(name: str, accuracy=None, notes=None) -> Outcome:
    network, trained_in_bf16 = Network(nn.Identity(), {}, (3, 8, 8)), {"test/top1": 77.0, "test/top5": 88.0}
    return Outcome(Edit(name, nothing), [trained_in_bf16], notes or {}, lambda: network, lambda: accuracy)


def test_gains_are_those_of_the_last_stage_over_the_base() -> None:
    notes = {"base": {"top1": 90.0, "top5": 99.0}, "decomposed": {"top1": 60.0, "top5": 95.0}}
    edit = outcome("decompose", notes=notes)
    tuned = outcome("finetune", {"top1": 88.0, "top5": 98.0})
    bare, finetuned = Decomposition().metrics([edit]), Decomposition().metrics([edit, tuned])
    assert (bare["base/top1"], bare["decomposed/top1"], bare["gain/base_top1"]) == (90, 60, -30)
    assert (finetuned["gain/base_top1"], finetuned["gain/base_top5"]) == (-2, -1)


def test_ranks_are_noted_and_a_growing_network_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="paredown")
    notes = rank_notes("prune", Goal("energy", 0.1), {"a": 2}, {"a": 5}, 0.5, "take more energy")
    assert notes == {"ranks": {"a": 2}, "full_ranks": {"a": 5}}
    assert rank_metrics(notes) == {"rank/sum": 2, "rank/full": 5}
    assert "prune: energy=0.1 gives ranks 2 of 5 in all, 0.50x fewer MACs" in caplog.text
    assert "needs 2.00x the MACs of the dense one: take more energy" in caplog.text


def test_without_test_images_there_is_no_accuracy_to_gain() -> None:
    assert gains({"base": {}, "decomposed": {}}, {}) == {}
    found = gains(
        {"base": {"top1": 50.0, "top5": 90.0}, "decomposed": {"top1": 40.0, "top5": 80.0}}, {"top1": 51, "top5": 91}
    )
    assert (found["gain/base_top1"], found["decomposed/top5"]) == (1, 80)
    recipe = Recipe(epochs=1)
    fits = [Outcome(Fit(name, recipe), [{"train/loss": 1.0}], {}, dense, dict) for name in ("full_rank", "finetune")]
    notes = {"energy": 0.1, "ranks": {"conv": 2}, "full_ranks": {"conv": 4}}
    edit = Outcome(Edit("prune", nothing), [], notes, dense, dict)
    assert SVDTraining().metrics([fits[0], edit, fits[1]]) == {"energy": 0.1, "rank/sum": 2, "rank/full": 4}


def dense() -> Network:
    return Network(nn.Identity(), {}, (3, 8, 8))
