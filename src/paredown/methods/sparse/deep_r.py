"""Deep-R (Bellec et al., ICLR 2018): after each step, weights that changed their sign are replaced."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from paredown.core.constraints import NonNegative
from paredown.methods.sparse.moving import Rewiring
from paredown.surgery import moves
from paredown.training.hooks.moving_masks import Period


@dataclass(frozen=True)
class DeepR(Rewiring):
    """`noise` is the variance of what is added to the gradients, `l1` the weights' decay."""

    name: ClassVar[str] = "deep_r"

    period: Period = field(default=((0.0, 1),), kw_only=True)
    noise: NonNegative = 0.0
    l1: NonNegative = 1e-5

    def rule(self, kept: int) -> moves.DeepR:
        """Return the rule."""
        return moves.DeepR(self.noise, self.l1)
