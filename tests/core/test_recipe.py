"""A recipe: which values it takes, and what a stage of a method overrides."""

from __future__ import annotations

import pytest

from paredown.core.constraints import make
from paredown.core.errors import UserError
from paredown.core.recipe import Recipe, RecipeOverrides


def test_every_wrong_value_is_named() -> None:
    with pytest.raises(UserError) as error:
        Recipe(epochs=0, batch_size=0, learning_rate=0, optimizer="sdg", precision="64", clip_norm=0)  # type: ignore[arg-type]
    assert str(error.value).split("; ") == [
        "recipe.epochs=0 (at least 1)",
        "recipe.batch_size=0 (at least 1)",
        "recipe.optimizer='sdg': did you mean sgd? known: adam, sgd",
        "recipe.learning_rate=0 (above 0)",
        "recipe.clip_norm=0 (above 0, or null)",
        "recipe.precision='64': did you mean 16? known: 16, 32, bf16",
    ]


def test_overrides_replace_only_what_they_set() -> None:
    recipe = Recipe(epochs=10, learning_rate=0.1)
    changed = recipe.changed(RecipeOverrides(epochs=3))
    assert (changed.epochs, changed.learning_rate) == (3, 0.1)
    with pytest.raises(UserError, match=r"recipe\.epochs=0 \(at least 1\)"):
        recipe.changed(RecipeOverrides(epochs=0))  # 0 epochs mean no stage at all, where a method allows it
    with pytest.raises(UserError, match=r"^method\.finetune\.epochs=-1 \(at least 0, or null\)"):
        make(RecipeOverrides, {"epochs": -1}, "method.finetune")
