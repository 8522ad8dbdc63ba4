"""The kind `searched`: a convolution that is every design of a list at once, for SVD-NAS's search among them (Yu and
Bouganis, WACV 2023). Nothing of it is trained but `theta`, one number for each candidate."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.blueprint import CompressedLayer
from paredown.layers._families import Family, blocks, kernel_shape, plain_pair, unblocked
from paredown.layers.branches import Branches
from paredown.layers.grouped_pair import GroupedPair, body_macs

Point = Sequence[Any]  # family, groups, rank and MACs of the whole layer; of the layer as it is None, 1, None and MACs


class SearchedConv2d(CompressedLayer):
    """The convolution `dense` as any of `points`, the last of which is itself.

    In place of a dense copy of each candidate it keeps, for each family and number of groups, an orthonormal basis of
    the smaller side of its matrices: the best approximation of rank r is the projection onto the first r vectors.
    `fixed` is the branch found before: then the candidates approximate what that leaves, and add to it.
    Outside of a search it computes the candidate of the largest theta, `choice`.
    """

    def __init__(self, dense: nn.Conv2d, points: Sequence[Point], fixed: Sequence[dict[str, Any]]) -> None:
        super().__init__()
        self.points, self.fixed = [tuple(point) for point in points], [dict(branch) for branch in fixed]
        self.shape = kernel_shape(dense)
        self._shell = (_without_weights(dense),)  # in a tuple, so that it is no submodule
        weight = dense.weight.detach().clone()
        self.register_buffer("weight", weight)
        self.bias = None if dense.bias is None else nn.Parameter(dense.bias.detach().clone())
        # of the layer's weight what the candidates approximate
        self.register_buffer("error", torch.zeros_like(weight) if fixed else None)
        for (family, groups), rank in self.highest().items():
            matrices = blocks(weight.new_empty(self.shape, device="meta"), family, groups)
            side = min(matrices.shape[1:])
            self.register_buffer(f"basis_{family}_{groups}", weight.new_zeros(groups, side, rank))
        costs = torch.tensor([float(point[3]) for point in self.points], device=weight.device)
        self.register_buffer("costs", costs, persistent=False)
        for name in ("temperature", "total"):  # of a search, kept here so that a killed one goes on with them
            self.register_buffer(name, torch.ones((), dtype=torch.float64, device=weight.device))
        self.register_buffer("choice", torch.tensor(len(self.points) - 1, device=weight.device))
        self.theta = nn.Parameter(torch.ones(len(self.points), device=weight.device))
        self.weight: Tensor
        self.error: Tensor | None
        self.costs: Tensor
        self.choice: Tensor
        self.temperature: Tensor
        self.total: Tensor
        self.pair: tuple[int, int] | None = None  # the two candidates that a step weighs against each other
        self.expected = self.costs[-1]

    def highest(self) -> dict[tuple[Family, int], int]:
        """The highest rank of each family and number of groups among the candidates."""
        found: dict[tuple[Family, int], int] = {}
        for family, groups, rank, _ in self.points[:-1]:
            found[family, groups] = max(rank, found.get((family, groups), 0))
        return found

    @torch.no_grad()
    def become(self, dense: nn.Conv2d) -> None:
        """Take the weights of `dense`, and make the bases, in float64, of what the fixed branch leaves of them."""
        self.weight.copy_(dense.weight)
        if self.bias is not None and dense.bias is not None:
            self.bias.copy_(dense.bias)
        error = dense.weight.double()
        for branch in self.fixed:
            pair = GroupedPair(dense, **branch, bias=False)
            pair.become(dense.weight)
            error = error - pair.effective_weight().double()
        if self.error is not None:
            self.error.copy_(error)
        for (family, groups), rank in self.highest().items():
            matrices = blocks(error, family, groups)
            small = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
            vectors = torch.linalg.eigh(small @ small.mT).eigenvectors  # the largest last
            getattr(self, f"basis_{family}_{groups}").copy_(vectors.flip(2)[:, :, :rank])

    def probabilities(self) -> Tensor:
        """Of the candidates, by theta at the temperature of now, (k,)."""
        return (self.theta / self.temperature.to(self.theta)).softmax(0)

    def candidate(self, index: int) -> Tensor:
        """The weight, of the dense layer's shape, of candidate `index`."""
        family, groups, rank, _ = self.points[index]
        if rank is None:
            return self.weight
        error = self.weight if self.error is None else self.error
        basis = getattr(self, f"basis_{family}_{groups}")[:, :, :rank]
        matrices = blocks(error, family, groups)
        wide = matrices.shape[1] <= matrices.shape[2]
        with torch.autocast(error.device.type, enabled=False):  # 16 bits would blur what tells two ranks apart
            nearest = basis @ (basis.mT @ matrices) if wide else (matrices @ basis) @ basis.mT
        approximation = unblocked(nearest, family, self.shape)
        return approximation if self.error is None else self.weight - error + approximation

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, n, H', W'). In a search each image weighs the two candidates by its own Gumbel-softmax,
        and `expected` becomes the mean over images of their weighted MACs."""
        if self.pair is None:
            return self._shell[0]._conv_forward(x, self.candidate(int(self.choice)), self.bias)
        pair = list(self.pair)
        shares = functional.gumbel_softmax(self.theta[pair].expand(len(x), 2), tau=float(self.temperature))
        self.expected = (shares @ self.costs[pair]).mean()
        weights = torch.cat([self.candidate(index) for index in pair])
        both = self._shell[0]._conv_forward(x, weights, None).unflatten(1, (2, -1))
        mixed = torch.einsum("bk,bknhw->bnhw", shares.to(both.dtype), both)
        return mixed if self.bias is None else mixed + self.bias[:, None, None]

    def design(self, index: int | None = None) -> list[dict[str, Any]]:
        """The branches of candidate `index` (None: the choice); none: the layer as it is."""
        family, groups, rank, _ = self.points[int(self.choice) if index is None else index]
        return [] if rank is None else [*self.fixed, {"family": family, "groups": groups, "rank": rank}]

    def dense(self) -> nn.Conv2d:
        """The convolution that was searched."""
        conv = copy.deepcopy(self._shell[0]).to_empty(device=self.weight.device)
        conv.weight = nn.Parameter(self.weight.clone())
        conv.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return conv

    def active_weights(self) -> int:
        """Weights of the choice."""
        pairs = [plain_pair(self._shell[0], **branch, bias=False) for branch in self.design()]
        return sum(p.numel() for pair in pairs for p in pair.parameters()) or self.weight.numel()

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Multiply-adds of the choice for one input (channels, height, width)."""
        pairs = [plain_pair(self._shell[0], **branch, bias=False) for branch in self.design()]
        if pairs:
            return sum(body_macs(pair, input_shape) for pair in pairs)
        size = self._shell[0](torch.empty(1, *input_shape, device="meta")).shape[2:]
        return self.weight.numel() * size.numel()

    def deployed(self) -> nn.Module:
        """The choice as plain layers."""
        dense, branches = self.dense(), self.design()
        if not branches:
            return dense
        made = Branches(dense, branches)
        made.become(dense.weight, dense.bias)
        return made.deployed()

    def extra_repr(self) -> str:
        """The dense shape and the number of candidates."""
        return f"{self.shape}, {len(self.points)} candidates, choice={self.points[int(self.choice)]}"


def build(dense: nn.Module, points: Sequence[Point], fixed: Sequence[dict[str, Any]] = ()) -> SearchedConv2d:
    """A searched convolution in the place of `dense`, whose bases are yet to be made or loaded."""
    return SearchedConv2d(dense, points, fixed)  # type: ignore[arg-type]


def searched(module: nn.Module) -> dict[str, SearchedConv2d]:
    """The searched layers of `module`, by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, SearchedConv2d)}


def _without_weights(dense: nn.Conv2d) -> nn.Conv2d:
    """The settings of `dense`, on the meta device: a module that is no part of any state."""
    settings = ("stride", "padding", "dilation", "groups", "padding_mode")
    shape: dict[str, Any] = {name: getattr(dense, name) for name in settings} | {"bias": dense.bias is not None}
    return nn.Conv2d(dense.in_channels, dense.out_channels, dense.kernel_size, device="meta", **shape)  # type: ignore[arg-type]
