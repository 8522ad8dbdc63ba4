"""RigL (Evci et al., ICML 2020): the smallest weights are replaced by the connections of the largest gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from paredown.core.constraints import Share
from paredown.core.network import Network
from paredown.core.target import Target
from paredown.methods.sparse.moving import EVERY_100, Rewiring
from paredown.surgery import moves
from paredown.surgery.densities import Start, start_counts
from paredown.training.hooks.moving_masks import Period


@dataclass(frozen=True)
class RigL(Rewiring):
    """Each layer moves `fraction` of its weights at first, and by half a cosine less until the end; the first layer is
    dense where `keep_first`."""

    name: ClassVar[str] = "rigl"

    start: Start = field(default="erk", kw_only=True)
    until: Share = field(default=0.75, kw_only=True)
    period: Period = field(default=EVERY_100, kw_only=True)
    fraction: Share = 0.3
    keep_first: bool = False

    def starts(self, target: Target, network: Network) -> dict[str, int]:
        """Return the counts of `start_counts`. Raise UserError as it does."""
        return start_counts(network, target, self.start, self.least, self.keep_first)

    def rule(self, kept: int) -> moves.RigL:
        """Return the rule."""
        return moves.RigL(self.fraction)
