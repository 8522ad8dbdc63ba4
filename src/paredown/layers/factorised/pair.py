"""The kind `pair`: two plain layers in place of one, of a factorisation, a number of groups and a rank."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from paredown.core.compressed import CompressedLayer
from paredown.layers.factorised.forms import (
    Factorisation,
    full_rank,
    kernel_shape,
    matrices,
    pair_macs,
    pair_size,
    pair_weights,
    plain_pair,
    product,
    weighted,
)
from paredown.layers.factorised.svd import truncated_svd


class Pair(CompressedLayer):
    """The layers of `dense` (Conv2d or Linear) factorised (`forms.plain_pair`), freshly initialised; `bias` gives the
    second one a bias even where `dense` has none."""

    def __init__(self, dense: nn.Module, factorisation: Factorisation, groups: int, rank: int, bias: bool) -> None:
        super().__init__()
        weight: Tensor = dense.weight  # type: ignore[assignment]
        self.factorisation: Factorisation = factorisation
        self.groups, self.rank = groups, rank
        self.shape, self.kernel = tuple(weight.shape), kernel_shape(dense)
        self.body = plain_pair(dense, factorisation, groups, rank, bias).to_empty(device=weight.device)
        for layer in weighted(self.body):
            layer.reset_parameters()
        self.to(weight.dtype).train(dense.training)

    @torch.no_grad()
    def set_weight_(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Compute from now on the best approximation of `weight`, of the dense layer's shape, and add `bias` (n,)."""
        factors = truncated_svd(matrices(weight.reshape(self.kernel), self.factorisation, self.groups), self.rank)
        layers = weighted(self.body)
        for layer, values in zip(layers, pair_weights(*factors, self.factorisation, self.kernel), strict=True):
            layer.weight.copy_(values.reshape(layer.weight.shape))
        if layers[1].bias is not None:
            layers[1].bias.zero_() if bias is None else layers[1].bias.copy_(bias)

    def effective_weight(self) -> Tensor:
        """Return the weight, of the dense layer's shape, of the one layer that computes the same but for a bias."""
        first, second = (layer.weight.reshape(kernel_shape(layer)) for layer in weighted(self.body))
        return product(first, second, self.factorisation, self.groups, self.kernel).reshape(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, n, H', W'), or (..., c) to (..., n)."""
        return self.body(x)

    @property
    def full_rank(self) -> int:
        """The smaller side of a group's matrix."""
        return full_rank(self.kernel, self.factorisation, self.groups)

    def active_weights(self) -> int:
        """Return the number of weights of both layers."""
        return pair_size(self.body)

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Return the multiply-adds of both layers for one input, (channels, height, width) or (..., features)."""
        return pair_macs(self.body, input_shape)

    def deployed(self) -> nn.Sequential:
        """Return a copy of the two layers in sequence."""
        return copy.deepcopy(self.body)

    def extra_repr(self) -> str:
        """Return the dense shape and the design."""
        return f"{self.shape}, {self.factorisation}, groups={self.groups}, rank={self.rank}"


def build(dense: nn.Module, factorisation: Factorisation, groups: int, rank: int, bias: bool | None = None) -> Pair:
    """Return an untrained pair for `dense`; `bias` None: as `dense` has it. Raise UserError as `forms.check` does."""
    own = getattr(dense, "bias", None) is not None
    return Pair(dense, factorisation, groups, rank, own if bias is None else bias)


def decompose(dense: nn.Conv2d | nn.Linear, factorisation: Factorisation, groups: int, rank: int) -> Pair:
    """Return `dense` as a pair: equal to it at full rank, else its best approximation."""
    pair = build(dense, factorisation, groups, rank)
    pair.set_weight_(dense.weight.detach(), dense.bias)
    return pair
