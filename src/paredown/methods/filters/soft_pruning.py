"""What SFP and FPGM share: a training with soft filters, then the cut of those that are zero."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paredown.core.constraints import Count
from paredown.core.distributed import broadcast
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Outcome, Stage
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Target
from paredown.graph.channels import Group
from paredown.graph.sites import sites
from paredown.methods.families import notes_of, train_dense
from paredown.methods.filters.filter_cuts import CutFilters, cut_filters, weight_of
from paredown.surgery.filters import chosen
from paredown.surgery.narrowing import others
from paredown.training.hooks.soft_filters import SoftFilters


@identity("soft_filters/cut", kinds=["narrow"])
def cut_soft(network: Network, context: Context, keep: Mapping[str, int]) -> dict[str, Any]:
    """Cut all but the `keep` filters of largest L2 norm of each convolution, with scale and shift behind them. Return
    the notes of `cut_filters`, and the largest `constant` that a filter that goes has added behind its ReLU."""
    gone = {}
    for name, number in keep.items():
        weight = weight_of(network, name)
        gone[name] = broadcast(chosen(weight, len(weight) - number))
    found = sites(network.module, list(keep))
    constants = [float(found[name].shift[index].clamp(min=0).amax()) for name, index in gone.items() if len(index)]
    left = {name: others(len(weight_of(network, name)), index).tolist() for name, index in gone.items()}
    return cut_filters(network, context, left) | {"constant": max(constants, default=0.0)}


@dataclass(frozen=True)
class SoftPruning(CutFilters):
    """A training with filters that are zero after each epoch, and the cut. With `pretrained` the dense network is
    trained first; so is one whose weights the user brought. `soft` changes the recipe of the soft training."""

    pretrained: bool = field(default=False, kw_only=True)
    batch_norm: bool = field(default=True, kw_only=True)
    every: Count = field(default=1, kw_only=True)
    soft: RecipeOverrides = field(default_factory=RecipeOverrides, kw_only=True)

    @abstractmethod
    def hook(self, keep: Mapping[str, int], groups: Sequence[Group]) -> SoftFilters:
        """Return what zeroes the filters of `groups`, all but `keep` of each."""

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the stages. Raise UserError as `kept` does, and for a network without filters to cut."""
        groups = self.groups(network)
        keep = self.kept(target, network, groups)
        dense = train_dense(network, recipe) if self.pretrained else []
        soft = Fit("soft", recipe.changed(self.soft), (self.hook(keep, groups),))
        return [*dense, soft, Edit("prune", cut_soft, {"keep": keep})]

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return the counts and accuracies of the cut, and the constant that went with the filters: not 0 where
        `batch_norm` is off."""
        return super().metrics(outcomes) | {"channels/constant": notes_of(outcomes, "prune")["constant"]}
