"""The kind `branches`: a layer as the sum of several pairs (SVD-NAS's building block of two branches)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from paredown.core.compressed import CompressedLayer
from paredown.core.errors import UserError
from paredown.layers.factorised.pair import Pair


class Branches(CompressedLayer):
    """The sum of the pairs of `branches`, each {"factorisation", "groups", "rank"}, on the same input; only the first
    may have a bias."""

    def __init__(self, dense: nn.Module, branches: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        bias = getattr(dense, "bias", None) is not None
        self.pairs = Sum(Pair(dense, **branch, bias=bias and not index) for index, branch in enumerate(branches))

    @torch.no_grad()
    def set_weight_(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Compute from now on an approximation of `weight`, of the dense layer's shape, and add `bias` (n,): the first
        pair is the best approximation of it, each other one that of the error so far (Algorithm S.1)."""
        error = weight.detach().clone()
        for index, pair in enumerate(self._pairs()):
            pair.set_weight_(error, None if index else bias)
            error -= pair.effective_weight()

    def effective_weight(self) -> Tensor:
        """Return the weight, of the dense layer's shape, of the one layer that computes the same but for a bias."""
        return torch.stack([pair.effective_weight() for pair in self._pairs()]).sum(0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, n, H', W')."""
        return self.pairs(x)

    def active_weights(self) -> int:
        """Return the number of weights of all pairs."""
        return sum(pair.active_weights() for pair in self._pairs())

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Return the multiply-adds of all pairs for one input (channels, height, width)."""
        return sum(pair.macs(input_shape) for pair in self._pairs())

    def deployed(self) -> Sum:
        """Return the sum, for which torch has no module, of the pairs as plain layers."""
        return Sum(pair.deployed() for pair in self._pairs())

    def _pairs(self) -> list[Pair]:
        return [pair for pair in self.pairs if isinstance(pair, Pair)]


class Sum(nn.ModuleList):
    """The sum of the outputs of its modules on the same input."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        first, *others = self
        total = first(x)
        for branch in others:
            total = total + branch(x)
        return total


def build(dense: nn.Module, branches: Sequence[Mapping[str, Any]]) -> Branches:
    """Return untrained branches for `dense`. Raise UserError for none, and where `forms.check` does."""
    if not branches:
        raise UserError("kind 'branches' needs at least one branch")
    return Branches(dense, branches)
