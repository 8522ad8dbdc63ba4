"""The kind `mixed_op`: a convolution that mixes the candidate designs of a search (SVD-NAS, Yu and Bouganis, WACV
2023). Only `theta` is trained, one number for each candidate."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core.compressed import CompressedLayer
from paredown.core.errors import UserError
from paredown.layers.factorised.branches import Branches
from paredown.layers.factorised.forms import (
    Factorisation,
    full_rank,
    kernel,
    kernel_shape,
    matrices,
    pair_macs,
    pair_size,
    plain_pair,
)
from paredown.layers.factorised.pair import Pair
from paredown.layers.geometry import settings

Point = Sequence[Any]  # factorisation, groups, rank and MACs of the layer; for the dense layer None, 1, None and MACs


class MixedConv2d(CompressedLayer):
    """The convolution `dense` as any of the candidates `points`, the last of which is `dense` itself.

    Instead of a dense copy of each candidate it stores, for each factorisation and number of groups, an orthonormal
    basis of the smaller side of its matrices: the best approximation of rank r is the projection onto the first r
    vectors. `fixed` are the branches of an earlier search: the candidates then approximate the error of these, and are
    added to them. Outside a search the layer computes the candidate of the largest theta, `choice`.
    """

    def __init__(self, dense: nn.Conv2d, points: Sequence[Point], fixed: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.points, self.fixed = [tuple(point) for point in points], [dict(branch) for branch in fixed]
        self.shape = kernel_shape(dense)
        self._shell = (nn.Conv2d(**settings(dense), device="meta"),)  # in a tuple, so that it is no submodule
        weight = dense.weight.detach().clone()
        self.register_buffer("weight", weight)
        self.bias = None if dense.bias is None else nn.Parameter(dense.bias.detach().clone())
        # what the candidates approximate, where it is not the weight itself
        self.register_buffer("error", torch.zeros_like(weight) if fixed else None)
        for (factorisation, groups), rank in self.highest().items():
            side = full_rank(self.shape, factorisation, groups)
            self.register_buffer(_basis(factorisation, groups), weight.new_zeros(groups, side, rank))
        costs = torch.tensor([float(point[3]) for point in self.points], device=weight.device)
        self.register_buffer("costs", costs, persistent=False)
        self.register_buffer("choice", torch.tensor(len(self.points) - 1, device=weight.device))
        self.theta = nn.Parameter(torch.ones(len(self.points), device=weight.device))
        self.weight: Tensor
        self.error: Tensor | None
        self.costs: Tensor
        self.choice: Tensor
        self.temperature = 1.0  # of the softmax in a search
        self.pair: tuple[int, int] | None = None  # the two candidates that a step weighs against each other
        self.expected = self.costs[-1]

    def highest(self) -> dict[tuple[Factorisation, int], int]:
        """Return the highest rank of each factorisation and number of groups among the candidates."""
        found: dict[tuple[Factorisation, int], int] = {}
        for factorisation, groups, rank, _ in self.points[:-1]:
            found[factorisation, groups] = max(rank, found.get((factorisation, groups), 0))
        return found

    @torch.no_grad()
    def set_weight_(self, dense: nn.Conv2d) -> None:
        """Copy the weights of `dense`, and compute the bases, in float64, for the error of the fixed branches."""
        self.weight.copy_(dense.weight)
        if self.bias is not None and dense.bias is not None:
            self.bias.copy_(dense.bias)
        error = dense.weight.double()
        for branch in self.fixed:
            pair = Pair(dense, **branch, bias=False)
            pair.set_weight_(dense.weight)
            error = error - pair.effective_weight().double()
        if self.error is not None:
            self.error.copy_(error)
        for (factorisation, groups), rank in self.highest().items():
            parts = matrices(error, factorisation, groups)
            small = parts if parts.shape[1] <= parts.shape[2] else parts.mT
            vectors = torch.linalg.eigh(small @ small.mT).eigenvectors  # the largest last
            self.get_buffer(_basis(factorisation, groups)).copy_(vectors.flip(2)[:, :, :rank])

    def probabilities(self) -> Tensor:
        """Return the probabilities of the candidates (k,), by theta at the current temperature."""
        return (self.theta / self.temperature).softmax(0)

    def candidate(self, index: int) -> Tensor:
        """Return the weight, of the dense layer's shape, of candidate `index`."""
        factorisation, groups, rank, _ = self.points[index]
        if rank is None:
            return self.weight
        error = self.weight if self.error is None else self.error
        basis = self.get_buffer(_basis(factorisation, groups))[:, :, :rank]
        parts = matrices(error, factorisation, groups)
        wide = parts.shape[1] <= parts.shape[2]
        with torch.autocast(error.device.type, enabled=False):  # 16 bits would blur the difference of two ranks
            nearest = basis @ (basis.mT @ parts) if wide else (parts @ basis) @ basis.mT
        approximation = kernel(nearest, factorisation, self.shape)
        return approximation if self.error is None else self.weight - error + approximation

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, n, H', W'). In a search each image weighs the two candidates by a Gumbel-softmax, and
        `expected` becomes the mean over images of their weighted MACs."""
        if self.pair is None:
            return self._shell[0]._conv_forward(x, self.candidate(int(self.choice)), self.bias)
        pair = list(self.pair)
        shares = functional.gumbel_softmax(self.theta[pair].expand(len(x), 2), tau=self.temperature)
        self.expected = (shares @ self.costs[pair]).mean()
        weights = torch.cat([self.candidate(index) for index in pair])
        both = self._shell[0]._conv_forward(x, weights, None).unflatten(1, (2, -1))
        mixed = torch.einsum("bk,bknhw->bnhw", shares.to(both.dtype), both)
        return mixed if self.bias is None else mixed + self.bias[:, None, None]

    def design(self, index: int | None = None) -> list[dict[str, Any]]:
        """Return the branches of candidate `index` (None: the choice); none for the dense layer."""
        factorisation, groups, rank, _ = self.points[int(self.choice) if index is None else index]
        branch = {"factorisation": factorisation, "groups": groups, "rank": rank}
        return [] if rank is None else [*self.fixed, branch]

    def dense(self) -> nn.Conv2d:
        """Return the dense convolution."""
        conv = copy.deepcopy(self._shell[0]).to_empty(device=self.weight.device)
        conv.weight = nn.Parameter(self.weight.clone())
        conv.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return conv

    def active_weights(self) -> int:
        """Return the number of weights of the choice."""
        return sum(pair_size(pair) for pair in self._pairs()) or self.weight.numel()

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Return the multiply-adds of the choice for one input (channels, height, width)."""
        if pairs := self._pairs():
            return sum(pair_macs(pair, input_shape) for pair in pairs)
        size = self._shell[0](torch.empty(1, *input_shape, device="meta")).shape[2:]
        return self.weight.numel() * size.numel()

    def deployed(self) -> nn.Module:
        """Return the choice as plain layers."""
        dense, branches = self.dense(), self.design()
        if not branches:
            return dense
        made = Branches(dense, branches)
        made.set_weight_(dense.weight, dense.bias)
        return made.deployed()

    def extra_repr(self) -> str:
        """Return the dense shape, the number of candidates and the choice."""
        return f"{self.shape}, {len(self.points)} candidates, choice={self.points[int(self.choice)]}"

    def _pairs(self) -> list[nn.Sequential]:
        return [plain_pair(self._shell[0], **branch, bias=False) for branch in self.design()]


def build(dense: nn.Module, points: Sequence[Point], fixed: Sequence[dict[str, Any]] = ()) -> MixedConv2d:
    """Return a mixed operation for `dense` whose bases are yet to be computed or loaded. Raise UserError for anything
    but a Conv2d."""
    if not isinstance(dense, nn.Conv2d):
        raise UserError(f"kind 'mixed_op' replaces a Conv2d, not a {type(dense).__name__}")
    return MixedConv2d(dense, points, fixed)


def mixed_ops(module: nn.Module) -> dict[str, MixedConv2d]:
    """Return the mixed operations of `module` by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, MixedConv2d)}


def _basis(factorisation: Factorisation, groups: int) -> str:
    return f"basis_{factorisation}_{groups}"
