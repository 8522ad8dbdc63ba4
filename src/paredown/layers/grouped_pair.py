"""The kind `grouped_pair`: two plain layers in the place of one, of a family, a number of groups and a rank."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from paredown.blueprint import CompressedLayer
from paredown.layers._families import Family, blocks, kernel_shape, pair_weights, plain_pair, product, truncated
from paredown.layers.conv_pair import pair_macs


class GroupedPair(CompressedLayer):
    """Two layers of the shapes of `dense` (Conv2d or Linear) factorised (`_families.plain_pair`), freshly initialised;
    each group's matrix has `rank`."""

    def __init__(self, dense: nn.Conv2d | nn.Linear, family: Family, groups: int, rank: int, bias: bool) -> None:
        super().__init__()
        self.family, self.groups, self.rank = family, groups, rank
        self.shape, self.kernel = tuple(dense.weight.shape), kernel_shape(dense)
        self.body = plain_pair(dense, family, groups, rank, bias).to_empty(device=dense.weight.device)
        for layer in weighted(self.body):
            layer.reset_parameters()
        self.to(dense.weight.dtype).train(dense.training)

    @torch.no_grad()
    def become(self, weight: Tensor, bias: Tensor | None = None) -> None:
        """Compute the best approximation of `weight`, of the dense layer's shape, at this family, groups and rank, and
        add `bias` (n,)."""
        factors = truncated(blocks(weight.reshape(self.kernel), self.family, self.groups), self.rank)
        layers = weighted(self.body)
        for layer, values in zip(layers, pair_weights(*factors, self.family, self.kernel), strict=True):
            layer.weight.copy_(values.reshape(layer.weight.shape))
        if layers[1].bias is not None:
            layers[1].bias.zero_() if bias is None else layers[1].bias.copy_(bias)

    def effective_weight(self) -> Tensor:
        """The weight, of the dense layer's shape, of the one layer that computes the same, but for a bias."""
        first, second = (layer.weight.reshape(kernel_shape(layer)) for layer in weighted(self.body))
        return product(first, second, self.family, self.groups, self.kernel).reshape(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, n, H', W'), or (B, c) to (B, n)."""
        return self.body(x)

    def active_weights(self) -> int:
        """Weights of both."""
        return sum(layer.weight.numel() for layer in weighted(self.body))

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Multiply-adds of both for one input, (channels, height, width) or (features,)."""
        return body_macs(self.body, input_shape)

    def deployed(self) -> nn.Sequential:
        """The two, in a row."""
        return copy.deepcopy(self.body)

    def extra_repr(self) -> str:
        """The dense shape and the design."""
        return f"{self.shape}, family={self.family}, groups={self.groups}, rank={self.rank}"


def build(dense: nn.Module, family: Family, groups: int, rank: int) -> GroupedPair:
    """A pair in the place of `dense`, from scratch. Raises UserError where `_families.check` does."""
    return GroupedPair(dense, family, groups, rank, getattr(dense, "bias", None) is not None)  # type: ignore[arg-type]


def decompose(dense: nn.Conv2d | nn.Linear, family: Family, groups: int, rank: int) -> GroupedPair:
    """`dense` as a pair: equal to it at full rank, else its best approximation within the family."""
    pair = build(dense, family, groups, rank)
    pair.become(dense.weight.detach(), dense.bias)
    return pair


def weighted(body: nn.Sequential) -> list[nn.Conv2d | nn.Linear]:
    """The two layers of a pair that have weights, the first to be called first."""
    return [layer for layer in body if isinstance(layer, nn.Conv2d | nn.Linear)]


def body_macs(body: nn.Sequential, input_shape: tuple[int, ...]) -> int:
    """Multiply-adds of a pair (`_families.plain_pair`) for one input, (channels, height, width) or (..., features)."""
    first, second = weighted(body)
    if isinstance(second, nn.Conv2d):
        assert isinstance(first, nn.Conv2d)
        return pair_macs(first, second, input_shape)
    return (first.weight.numel() + second.weight.numel()) * math.prod(input_shape[:-1])
