"""Network slimming: a training that shrinks batch norms' scales; the channels of the smallest go (Liu et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt

from paredown.core.constraints import NonNegative, Rule
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Stage
from paredown.core.recipe import Recipe
from paredown.layers.narrow import NORMS
from paredown.methods.filters.pruning import PruneChannels
from paredown.surgery.importance import Reduce, Scale
from paredown.training.hooks.channel_penalties import ScaleSparsity

Start = Annotated[float, Gt(0), Rule("above 0: what the scales begin at")]


@dataclass(frozen=True)
class Slimming(PruneChannels):
    """`decay` of the L1 penalty on all scales; `start`: what scales begin a training from scratch with (None: as the
    model draws them); `reduce` of the scales that share a channel."""

    decay: NonNegative = 1e-4
    start: Start | None = 0.5
    reduce: Reduce = "max"

    def importance(self) -> Scale:
        """Return the scale of batch norms."""
        return Scale(self.reduce)

    def training(self, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the sparse training, of a network whose weights the user brought from these on."""
        fresh = self.start is not None and not network.pretrained
        begin = [Edit("start", set_scale, {"value": self.start})] if fresh else []
        return [*begin, Fit("sparse", recipe, (ScaleSparsity(self.decay),) if self.decay else ())]


@identity("slimming/start")
def set_scale(network: Network, context: Context, value: float) -> None:
    """Set the scales of all batch norms to `value`."""
    for layer in network.module.modules():
        if isinstance(layer, NORMS) and layer.affine:
            layer.weight.data.fill_(value)
