"""SET (Mocanu et al., Nature Communications 2018): the smallest weights are replaced by random connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from paredown.core.constraints import Share
from paredown.methods.sparse.moving import Rewiring
from paredown.surgery import moves


@dataclass(frozen=True)
class SET(Rewiring):
    """Each layer drops `fraction` of its weights at a move, by `by_sign` of the negative and the others apart, and
    `one_more`; a dropped place may come back at once where `back`."""

    name: ClassVar[str] = "set"

    fraction: Share = 0.1
    by_sign: bool = False
    back: bool = False
    one_more: bool = True

    def rule(self, kept: int) -> moves.SET:
        """Return the rule."""
        return moves.SET(self.fraction, self.by_sign, self.back, self.one_more)
