"""Group norm: DepGraph's criterion over all weights that a channel is in, after a training that shrinks the weak ones
(Fang et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass, field

from paredown.core.constraints import NonNegative
from paredown.core.network import Network
from paredown.core.plan import Stage
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.methods.filters.pruning import PruneChannels
from paredown.surgery import importance
from paredown.training.hooks.channel_penalties import GroupSparsity


@dataclass(frozen=True)
class GroupNorm(PruneChannels):
    """`decay` is the strength of the group penalty in the stage `sparse`; 0, or `sparse.epochs=0`: no such stage."""

    decay: NonNegative = 5e-4
    sparse: RecipeOverrides = field(default_factory=RecipeOverrides)

    def importance(self) -> importance.GroupNorm:
        """Return the group norm."""
        return importance.GroupNorm()

    def untrained(self) -> dict[str, str]:
        """Return the sparse training too where it has no penalty."""
        return ({"sparse": "method.decay=0"} if self.decay == 0 else {}) | super().untrained()

    def training(self, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the dense training and the sparse one."""
        sparse = self.further("sparse", recipe, GroupSparsity(self.decay, self.scope))
        return [*super().training(network, recipe), *sparse]
