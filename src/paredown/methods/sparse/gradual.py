"""Gradual magnitude pruning (Zhu and Gupta 2018): the smallest weights are dropped all through a training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from paredown.core.constraints import Fraction, Share
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Goal, Target
from paredown.methods.sparse.moving import EVERY_100, Moving
from paredown.surgery import moves
from paredown.surgery.sparsify import Scope, macs_per_weight, of_masked, require_kept, sizes
from paredown.training.hooks.moving_masks import MovingMask, Period


@dataclass(frozen=True)
class Gradual(Moving):
    """The sparsity rises from 0 at the fraction `begin` of the steps to the target at `end`; weights are ranked over
    the whole network or by layer (`scope`)."""

    name: ClassVar[str] = "gradual"

    begin: Fraction = 0.0
    end: Share = 0.5
    period: Period = field(default=EVERY_100)
    scope: Scope = "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.begin >= self.end:
            raise UserError(f"method.begin={self.begin:g} is not below method.end={self.end:g}")

    def starts(self, target: Target, network: Network) -> dict[str, int]:
        """Return all weights of each layer. Raise UserError as `require_kept` does."""
        require_kept(network, target, self.scope, self.least)
        return sizes(network)

    def hook(self, target: Target, network: Network, kept: int) -> MovingMask:
        """Return the hook."""
        price = macs_per_weight(network) if target.quantity == "speed_up" else {}
        rule = moves.Gradual(Goal.of(of_masked(network, target, price)), self.scope, self.least, price)
        return MovingMask(rule, self.period, self.end, self.begin)
