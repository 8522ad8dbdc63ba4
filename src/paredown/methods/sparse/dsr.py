"""DSR (Mostafa and Wang, ICML 2019): weights below one threshold move, to where many of the others are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from paredown.core.constraints import Positive, Share
from paredown.methods.sparse.moving import Rewiring
from paredown.surgery import moves


@dataclass(frozen=True)
class DSR(Rewiring):
    """The threshold, first `threshold`, aims at moving the fraction `budget` of the active weights at a time."""

    name: ClassVar[str] = "dsr"
    speeds_up: ClassVar[bool] = False

    budget: Share = 0.1
    threshold: Positive = 1e-3

    def rule(self, kept: int) -> moves.DSR:
        """Return the rule."""
        return moves.DSR(max(1, round(self.budget * kept)), self.threshold, self.least)
