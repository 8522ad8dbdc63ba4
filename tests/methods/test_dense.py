"""The reference: one fit, with SO or DSO where asked for, and no target."""

from __future__ import annotations

import pytest
import torch

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.hooks import Context, FitState
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.methods.dense import Dense
from paredown.training.hooks.penalties import double_soft_orthogonality, soft_orthogonality

RECIPE = Recipe(epochs=3)
NETWORK = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 8, 8))


def test_it_trains_and_nothing_else() -> None:
    assert Dense().plan(None, NETWORK, RECIPE) == [Fit("train", RECIPE)]


@pytest.mark.parametrize(("word", "penalty"), [("so", soft_orthogonality), ("dso", double_soft_orthogonality)])
def test_orthogonality_adds_its_penalty_by_name(word: str, penalty) -> None:
    (fit,) = Dense(word, decay=0.5).plan(None, NETWORK, RECIPE)
    (hook,) = fit.hooks
    found = hook.penalties(FitState(NETWORK.module, Context(None, torch.device("cpu"), 0), RECIPE))
    convolutions = [layer for layer in NETWORK.module.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert list(found) == [word]
    torch.testing.assert_close(found[word], 0.5 * sum(penalty(layer.weight) for layer in convolutions))


@pytest.mark.parametrize("target", [Target("sparsity", 0.5), Target("speed_up", 2)])
def test_a_target_is_refused(target: Target) -> None:
    with pytest.raises(UserError, match=f"dense removes nothing, so it cannot reach {target}"):
        Dense().plan(target, NETWORK, RECIPE)


def test_a_negative_decay_is_refused() -> None:
    with pytest.raises(UserError, match=r"method\.decay=-1 \(at least 0\)"):
        Dense("so", decay=-1)
