"""Learning rates and the figures of an epoch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paredown.core.recipe import Recipe
from paredown.training.module import make_optimizer
from paredown.training.schedule import rate_factor


def rates(recipe: Recipe) -> list[float]:
    return [rate_factor(recipe, epoch) for epoch in range(recipe.epochs)]


def test_steps_fall_at_the_published_epochs() -> None:
    factors = rates(Recipe(epochs=160))
    assert factors[79] == 1 and factors[80] == pytest.approx(0.1)  # GraSP: 80 and 120 of 160
    assert factors[119] == pytest.approx(0.1) and factors[120] == pytest.approx(0.01)


@pytest.mark.parametrize("schedule", ["steps", "cosine", "constant"])
def test_schedules_equal_torch(schedule: str) -> None:
    recipe = Recipe(epochs=12, schedule=schedule)  # type: ignore[arg-type]
    optimizer = make_optimizer(torch.nn.Linear(1, 1), recipe)
    reference = {
        "steps": lambda: torch.optim.lr_scheduler.MultiStepLR(optimizer, [6, 9]),
        "cosine": lambda: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12),
        "constant": lambda: torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0),
    }[schedule]()
    for factor in rates(recipe):
        assert factor * 0.1 == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        reference.step()


@pytest.mark.parametrize("warmup", [0.2, 0.5])
def test_one_cycle_is_piecewise_linear(warmup: float) -> None:
    recipe = Recipe(epochs=5, schedule="one_cycle", warmup=warmup)
    places = np.linspace(0, 5, 41)
    found = [rate_factor(recipe, place) for place in places]
    assert found == pytest.approx(np.interp(places, [0, 5 * warmup, 5], [0, 1, 0]))
