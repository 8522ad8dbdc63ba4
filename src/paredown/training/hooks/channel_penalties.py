"""Penalties that shrink channels before they are cut: of batch norms' scales, and of all weights of a channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from paredown.core.hooks import FitState, Hooks
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.graph.channels import Group, Member
from paredown.graph.trace import NORMS_IN_FIT
from paredown.surgery.importance import per_channel, weighted
from paredown.surgery.width_budget import Scope, scoped

STRONGEST = 4  # doublings of the decay, of a group's weakest channel


def scales_l1(model: torch.nn.Module) -> Tensor:
    """Compute the sum of |gamma| over all batch norms (Liu et al. 2017, equation 1)."""
    scales = [layer.weight for layer in model.modules() if isinstance(layer, NORMS_IN_FIT) and layer.weight is not None]
    return torch.stack([scale.abs().sum() for scale in scales]).sum()


def strengths(norms: Tensor) -> Tensor:
    """Compute 2^(4 (max - n) / (max - min)) of the `norms` n (n,) of a group's channels: 16 for the weakest, 1 for the
    strongest (Fang et al. 2023, in their code); 1 where all are equal."""
    span = norms.max() - norms.min()
    return torch.exp2(STRONGEST * (norms.max() - norms) / span.clamp(min=torch.finfo(norms.dtype).tiny))


@identity("scale_sparsity")
@dataclass(frozen=True)
class ScaleSparsity(Hooks):
    """`decay` times the sum of |gamma| over all batch norms."""

    decay: float

    def penalties(self, fit: FitState) -> dict[str, Tensor]:
        """Return the penalty; its gradient is decay * sign(gamma), 0 at 0."""
        return {"scales": self.decay * scales_l1(fit.model)}


@identity("group_sparsity")
@dataclass
class GroupSparsity(Hooks):
    """Half of `decay` times the sum over channels of w^2 of all their weights, each channel with its strength, which
    gets no gradient: decay * strength * w is added to the gradient of w. `scope` are the groups, as of the cut."""

    decay: float
    scope: Scope | tuple[str, ...] = "all"

    def start(self, fit: FitState) -> None:
        """Find the groups of channels."""
        network = Network(fit.model, {}, fit.context.data.input_shape)
        device = next(fit.model.parameters()).device
        self._members = [_on(device, fit, group) for group in scoped(network, self.scope)]

    def penalties(self, fit: FitState) -> dict[str, Tensor]:
        """Sum the penalty over the groups."""
        squares: dict[str, Tensor] = {}
        total = []
        for members in self._members:
            for member in members:
                if member.layer not in squares:
                    squares[member.layer] = cast(Tensor, fit.model.get_submodule(member.layer).weight).square()
            sums = torch.stack([per_channel(squares[member.layer], member) for member in members])
            strength = strengths(sums.detach().mean(0).sqrt())
            total.append((strength * sums.sum(0)).sum())
        return {"groups": self.decay / 2 * torch.stack(total).sum()}


def _on(device: torch.device, fit: FitState, group: Group) -> Sequence[Member]:
    """Return the layers that hold the group's weights, their tables on `device`."""
    return [Member(member.layer, member.axis, member.table.to(device)) for member in weighted(fit.model, group)]
