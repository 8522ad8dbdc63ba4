"""The kind `branches`: a layer as the sum of several grouped pairs (SVD-NAS's building block of two branches)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paredown.blueprint import CompressedLayer
from paredown.errors import UserError
from paredown.layers.grouped_pair import GroupedPair


class Branches(CompressedLayer):
    """The sum of the pairs of `branches`, each {"family", "groups", "rank"}, on the same input; the first alone may
    have a bias."""

    def __init__(self, dense: nn.Conv2d, branches: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        bias = getattr(dense, "bias", None) is not None
        self.pairs = Sum(GroupedPair(dense, **branch, bias=bias and not index) for index, branch in enumerate(branches))

    @torch.no_grad()
    def become(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Compute an approximation of `weight`, of the dense layer's shape: the first pair the best of it, each other
        the best of what those before leave (Algorithm S.1); and add `bias` (n,)."""
        left = weight.detach().clone()
        for index, pair in enumerate(self._pairs()):
            pair.become(left, None if index else bias)
            left -= pair.effective_weight()

    def effective_weight(self) -> Tensor:
        """The weight, of the dense layer's shape, of the one layer that computes the same, but for a bias."""
        return torch.stack([pair.effective_weight() for pair in self._pairs()]).sum(0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, n, H', W')."""
        return self.pairs(x)

    def active_weights(self) -> int:
        """Weights of all."""
        return sum(pair.active_weights() for pair in self._pairs())

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Multiply-adds of all for one input (channels, height, width)."""
        return sum(pair.macs(input_shape) for pair in self._pairs())

    def deployed(self) -> Sum:
        """The branches as plain layers in a row each, and their sum, for which torch has no module."""
        return Sum(pair.deployed() for pair in self._pairs())

    def _pairs(self) -> list[GroupedPair]:
        return list(self.pairs)  # type: ignore[arg-type]


class Sum(nn.ModuleList):
    """Adds up what its modules make of the same input."""

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        first, *others = self
        total = first(x)
        for branch in others:
            total = total + branch(x)
        return total


def build(dense: nn.Module, branches: Sequence[Mapping[str, Any]]) -> Branches:
    """Pairs in the place of `dense`, from scratch. Raises UserError for none, and where `_families.check` does."""
    if not branches:
        raise UserError("kind 'branches' needs at least one branch")
    return Branches(dense, branches)  # type: ignore[arg-type]
