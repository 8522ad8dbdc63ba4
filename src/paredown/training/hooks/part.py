"""A fit that is a part of a longer one, at the learning rates of the whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paredown.core.hooks import Hooks
from paredown.core.keys import identity
from paredown.core.recipe import Recipe
from paredown.training.schedule import rate_factor


@identity("part")
@dataclass(frozen=True)
class Part(Hooks):
    """The epochs from `first` on (0-based) of a training by the recipe `whole`."""

    whole: Recipe
    first: int

    def rate(self, history: Sequence[Mapping[str, float]], within: float = 0.0) -> float:
        """Return the learning rate at that place of the whole as a fraction of its first."""
        return rate_factor(self.whole, self.first + len(history) + within)
