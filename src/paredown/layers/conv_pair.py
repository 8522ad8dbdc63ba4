"""The kind `conv_pair`: two plain convolutions in the place of one, each trained as it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from paredown.blueprint import CompressedLayer
from paredown.layers._factors import Form, check, pair_weights, plain_pair
from paredown.layers.masked import output_size


class ConvPair(CompressedLayer):
    """Two convolutions of the shapes of `dense` factorised to `rank` (`_factors.plain_pair`), freshly initialised.
    `bias` gives the second one a bias even where `dense` has none."""

    def __init__(self, dense: nn.Conv2d, form: Form, rank: int, bias: bool) -> None:
        super().__init__()
        first, second = plain_pair(dense, form, rank, bias)
        self.form, self.shape = form, tuple(dense.weight.shape)
        self.first, self.second = (conv.to_empty(device=dense.weight.device) for conv in (first, second))
        for conv in (self.first, self.second):
            conv.reset_parameters()
            conv.to(dense.weight.dtype)
        self.train(dense.training)

    @torch.no_grad()
    def become(self, left: Tensor, right: Tensor, bias: Tensor | None = None) -> None:
        """Compute the matrix `left` (rows, r) times `right` (r, columns), and add `bias` (n,)."""
        weights = pair_weights(left, right, self.form, self.shape)
        for conv, weight in zip((self.first, self.second), weights, strict=True):
            conv.weight.copy_(weight)
        if self.second.bias is not None:
            self.second.bias.zero_() if bias is None else self.second.bias.copy_(bias)

    @property
    def rank(self) -> int:
        """How many channels lie between the two."""
        return self.first.out_channels

    def effective_weight(self) -> Tensor:
        """The weight (n, c, kh, kw) of the one convolution that computes the same, but for a bias."""
        first, second = (conv.weight for conv in (self.first, self.second))
        if self.form == "channel":
            return torch.einsum("nr,rchw->nchw", second[:, :, 0, 0], first)
        return torch.einsum("nrw,rch->nchw", second[:, :, 0], first[..., 0])

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, n, H', W')."""
        return self.second(self.first(x))

    def active_weights(self) -> int:
        """Weights of both."""
        return self.first.weight.numel() + self.second.weight.numel()

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Multiply-adds of both for one input (channels, height, width)."""
        return pair_macs(self.first, self.second, input_shape)

    def deployed(self) -> nn.Sequential:
        """The two, in a row."""
        return nn.Sequential(self.first, self.second)


def build(dense: nn.Module, form: Form, rank: int, bias: bool | None = None) -> ConvPair:
    """A pair in the place of `dense`; `bias` None: as `dense` has it. Raises UserError where `_factors.check` does."""
    check(dense, form, rank)
    assert isinstance(dense, nn.Conv2d)
    return ConvPair(dense, form, rank, dense.bias is not None if bias is None else bias)


def pair_macs(first: nn.Conv2d, second: nn.Conv2d, input_shape: tuple[int, ...]) -> int:
    """Multiply-adds of `first`, then `second`, for one input of (channels, height, width)."""
    total, size = 0, tuple(input_shape[1:])
    for conv in (first, second):
        size = tuple(output_size(conv, axis, size[axis]) for axis in (0, 1))
        total += conv.weight.numel() * math.prod(size)
    return total
