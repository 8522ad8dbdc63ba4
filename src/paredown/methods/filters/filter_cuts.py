"""What the methods share that cut each convolution's filters by themselves: how many, the edit's notes, the cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Interval
from torch import Tensor

from paredown.core.constraints import Rule
from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.core.target import Goal, Target
from paredown.graph.channels import Group
from paredown.methods.families import accuracy, only_goal
from paredown.methods.filters.pruning import CutChannels
from paredown.surgery.filters import filter_groups, filters_kept
from paredown.surgery.narrowing import rehearse
from paredown.surgery.scattering import Reads, scatter

Keep = Annotated[float, Interval(gt=0, lt=1), Rule("between 0 and 1: the fraction of its filters that a layer keeps")]


@dataclass(frozen=True)
class CutFilters(CutChannels):
    """A method that keeps the fraction `keep` of the filters of every layer, or the one that meets the target."""

    keep: Keep | None = None

    def groups(self, network: Network) -> tuple[Group, ...]:
        """Find the convolutions that may lose filters of their own. Raise UserError where there is none."""
        return filter_groups(network)

    def check(self, network: Network, data: Any) -> None:
        """Raise UserError for a network that does not run with fewer filters."""
        keep = {group.name: range(min(1, group.size - 1), group.size) for group in self.groups(network)}
        rehearse(network, lambda trial: scatter(trial, keep, self.reading()))

    def reading(self) -> Reads:
        """Return what a convolution behind an addition reads."""
        return "full"

    def kept(self, target: Target | None, network: Network, groups: Sequence[Group]) -> dict[str, int]:
        """Return how many filters each of `groups` keeps. Raise UserError as `only_goal` does, and as
        `surgery.filters.filters_kept`."""
        only_goal("this method", "filters", target, {"keep": self.keep})
        return filters_kept(network, groups, self.keep, Goal.of(target) if target else None)


def cut_filters(
    network: Network, context: Context, keep: Mapping[str, Sequence[int]], reads: Reads = "full"
) -> dict[str, Any]:
    """Cut all but the filters `keep` of the convolutions. Return as notes those `kept`, `of` how many, and the accuracy
    before and after as `base` and `pruned`."""
    of = {name: len(weight_of(network, name)) for name in keep}
    base = accuracy(network, context)
    scatter(network, keep, reads)
    notes = {"kept": {name: list(index) for name, index in keep.items()}, "of": of}
    return notes | {"base": base, "pruned": accuracy(network, context)}


def weight_of(network: Network, name: str) -> Tensor:
    """Return the weight of the convolution `name`."""
    return network.module.get_submodule(name).get_parameter("weight").detach()
