"""Importances of channels: a score of each channel of a network's groups; the lowest are cut.

The functions are pure and take any module; the dataclasses name one with its hyperparameters for a stage's key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from paredown.core.constraints import Checked
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.graph.channels import Group, Member
from paredown.layers.narrow import NORMS

Scores = dict[str, Tensor]  # (n,), float64, by the group's name
Reduce = Literal["max", "sum", "mean"]
REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "max": lambda values: values.amax(0),
    "sum": lambda values: values.sum(0),
    "mean": lambda values: values.mean(0),
}


def l1(module: nn.Module, groups: Iterable[Group], normalise: bool = True) -> Scores:
    """Compute the sum of |w| of each channel's filters (Li et al. 2017, section 3.1), over all layers that write it;
    `normalise` divides each layer's sums by their mean, so that layers can be compared."""
    found = {}
    for group in groups:
        sums = torch.stack([_values(module, member, torch.abs) for member in producers(module, group)])
        found[group.name] = (sums / sums.mean(1, keepdim=True) if normalise else sums).sum(0)
    return found


def scale(module: nn.Module, groups: Iterable[Group], reduce: Reduce = "max") -> Scores:
    """Compute |gamma| of each channel (Liu et al. 2017, section 3); where several batch norms share it their `reduce`.
    Raise UserError for a group without a batch norm."""
    found = {}
    for group in groups:
        norms = list(_norms(module, group))
        if not norms:
            raise UserError(f"no batch norm ranks the channels at {group.name}: leave them out (method.scope)")
        found[group.name] = REDUCTIONS[reduce](torch.stack([_values(module, m, torch.abs) for m in norms]))
    return found


def group_norm(module: nn.Module, groups: Iterable[Group]) -> Scores:
    """Compute the mean of sum w^2 of each channel over all layers that it is in, rows and columns and scales, over the
    group's mean (Fang et al. 2023, equation 6, as their code normalises it)."""
    found = {}
    for group in groups:
        norms = torch.stack([_values(module, member, torch.square) for member in weighted(module, group)]).mean(0)
        found[group.name] = norms / norms.mean()
    return found


def producers(module: nn.Module, group: Group) -> Iterator[Member]:
    """Find the convolutions and linear layers that write the group's channels, depthwise ones not."""
    for member in group.members:
        layer = module.get_submodule(member.layer)
        if member.axis == "out" and isinstance(layer, nn.Conv2d | nn.Linear) and not _depthwise(layer):
            yield member


def weighted(module: nn.Module, group: Group) -> Iterator[Member]:
    """Find the layers with a weight that the group's channels are in, a depthwise one once."""
    for member in group.members:
        layer = module.get_submodule(member.layer)
        if layer._parameters.get("weight") is not None and not (member.axis == "in" and _depthwise(layer)):
            yield member


def per_channel(values: Tensor, member: Member) -> Tensor:
    """Sum `values`, of the shape of the weight of the layer of `member`, over everything but its channels (n,)."""
    axis = 1 if member.axis == "in" else 0
    sums = values.sum([dim for dim in range(values.dim()) if dim != axis]) if values.dim() > 1 else values
    return sums[member.table.to(values.device)].sum(1)


def _norms(module: nn.Module, group: Group) -> Iterator[Member]:
    """Find the batch norms that scale the group's channels."""
    for member in group.members:
        layer = module.get_submodule(member.layer)
        if isinstance(layer, NORMS) and layer.affine:
            yield member


def _values(module: nn.Module, member: Member, function: Callable[[Tensor], Tensor]) -> Tensor:
    weight = cast(Tensor, module.get_submodule(member.layer).weight)
    return per_channel(function(weight.detach().double()), member).cpu()


def _depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1


class Importance(Checked, ABC):
    """An importance with its hyperparameters."""

    section = "method"

    @abstractmethod
    def scores(self, network: Network, groups: Sequence[Group], context: Context) -> Scores:
        """Compute the importance of each channel of `groups`, in float64 on the CPU."""

    def scorable(self, network: Network, groups: Sequence[Group]) -> Sequence[Group]:
        """Return those of `groups` that it can score; the others stay. Raise UserError where there is none."""
        return groups

    def images_of(self, data: Any) -> int:
        """Return how many images of `data` a scoring takes."""
        return 0


@identity("importance/l1")
@dataclass(frozen=True)
class L1(Importance):
    """The L1 norm of filters."""

    normalise: bool = True

    def scores(self, network: Network, groups: Sequence[Group], context: Context) -> Scores:
        """Compute the sum of |w|."""
        return l1(network.module, groups, self.normalise)


@identity("importance/scale")
@dataclass(frozen=True)
class Scale(Importance):
    """The scale of batch norms."""

    reduce: Reduce = "max"

    def scores(self, network: Network, groups: Sequence[Group], context: Context) -> Scores:
        """Compute |gamma|."""
        return scale(network.module, groups, self.reduce)

    def scorable(self, network: Network, groups: Sequence[Group]) -> Sequence[Group]:
        """Return the groups with a batch norm. Raise UserError where there is none."""
        found = [group for group in groups if list(_norms(network.module, group))]
        if not found:
            raise UserError(f"no batch norm ranks channels of {type(network.module).__name__}: take another method")
        return found


@identity("importance/group_norm")
@dataclass(frozen=True)
class GroupNorm(Importance):
    """The norm of all weights of a channel."""

    def scores(self, network: Network, groups: Sequence[Group], context: Context) -> Scores:
        """Compute the mean of sum w^2, normalised."""
        return group_norm(network.module, groups)
