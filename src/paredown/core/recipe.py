"""Training recipes: the hyperparameters of a `Fit`, and those that one stage of a method overrides."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import ClassVar, Literal

from paredown.core.constraints import (
    Checked,
    Count,
    Fraction,
    Milestones,
    NonNegative,
    NonNegativeInt,
    OpenFraction,
    Positive,
    Sample,
)
from paredown.core.keys import HOW_IT_RAN, identity

Precision = Literal["32", "bf16", "16"]


@identity("recipe")
@dataclass(frozen=True)
class Recipe(Checked):
    """The hyperparameters of a `Fit`: `milestones` and `warmup` (of one_cycle) are fractions of `epochs`, `batch_size`
    is over all DDP ranks. Before each evaluation the batch norms' statistics are recomputed over `norm_images` training
    images, not augmented; 0: they are the running averages of the training."""

    section: ClassVar[str] = "recipe"

    epochs: Count
    batch_size: Count = 128
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: Positive = 0.1
    momentum: Fraction = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 1e-4
    schedule: Literal["steps", "cosine", "one_cycle", "constant"] = "steps"
    milestones: Milestones = (0.5, 0.75)
    gamma: Positive = 0.1
    warmup: OpenFraction = 0.2
    label_smoothing: Fraction = 0.0
    clip_norm: Positive | None = None
    norm_images: Sample = 0
    precision: Precision = "32"
    channels_last: bool = field(default=True, metadata=HOW_IT_RAN)
    compile: bool = field(default=False, metadata=HOW_IT_RAN)

    def changed(self, changes: RecipeOverrides) -> Recipe:
        """Return this recipe with the fields that `changes` sets."""
        given = {f.name: getattr(changes, f.name) for f in fields(changes)}
        return replace(self, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class RecipeOverrides(Checked):
    """The fields of the recipe that one stage of a method overrides; None keeps the recipe's."""

    section: ClassVar[str] = "overrides"

    epochs: NonNegativeInt | None = None
    learning_rate: Positive | None = None
    milestones: Milestones | None = None
