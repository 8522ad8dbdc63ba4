"""Learning rates over a training, without what trains: plans of parts of a training read them too."""

from __future__ import annotations

import math

from paredown.core.recipe import Recipe


def rate_factor(recipe: Recipe, place: float) -> float:
    """Return the learning rate after `place` epochs as a fraction of the highest. one_cycle rises linearly from 0 for
    the fraction `warmup` of the training and falls linearly to 0, step by step; the others change with the epoch."""
    if recipe.schedule == "one_cycle":
        progress = place / recipe.epochs
        return min(progress / recipe.warmup, (1 - progress) / (1 - recipe.warmup))
    epoch = int(place)
    if recipe.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * epoch / recipe.epochs))
    if recipe.schedule == "steps":
        steps = (max(1, round(fraction * recipe.epochs)) for fraction in recipe.milestones)  # never in the first epoch
        return recipe.gamma ** sum(epoch >= step for step in steps)
    return 1.0
