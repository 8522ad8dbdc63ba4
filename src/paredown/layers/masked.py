"""A convolution some of whose weights are fixed at zero, and the kind `masked`, whose mask travels with the weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from paredown.blueprint import CompressedLayer
from paredown.errors import UserError


class MaskedConv2d(CompressedLayer, nn.Conv2d):
    """A copy of `dense` whose weight (N, M/groups, K, K) is multiplied by the boolean `mask` of the same shape.

    Masked weights start at zero and get no gradient, so neither momentum nor weight decay revives them.
    `persistent` puts the mask into the state dict; without it, whoever builds the layer must know the mask.
    """

    mask: Tensor

    def __init__(self, dense: nn.Conv2d, mask: Tensor, persistent: bool = True) -> None:
        super().__init__(**_settings(dense), device="meta")  # no values are drawn: they come from `dense`
        if mask.shape != dense.weight.shape:
            raise UserError(f"a mask of shape {tuple(mask.shape)} for a weight of {tuple(dense.weight.shape)}")
        self.register_buffer("mask", mask.to(dense.weight.device, torch.bool), persistent=persistent)
        self.weight = nn.Parameter(dense.weight.detach() * self.mask)
        self.bias = None if dense.bias is None else nn.Parameter(dense.bias.detach().clone())
        self.train(dense.training)

    def set_mask(self, mask: Tensor) -> None:
        """Replace the mask, in place, and zero the weights it removes."""
        with torch.no_grad():
            self.mask.copy_(mask)
            self.weight.mul_(self.mask)

    def effective_weight(self) -> Tensor:
        """The weight that the convolution uses, (N, M/groups, K, K), zeros in place."""
        return self.weight * self.mask

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, H, W) to (B, N, H', W')."""
        return self._conv_forward(x, self.effective_weight(), self.bias)

    def active_weights(self) -> int:
        """How many weights the mask leaves."""
        return int(self.mask.sum())

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """One multiply-add per active weight and output position; `input_shape` is (channels, height, width)."""
        height, width = (output_size(self, axis, input_shape[axis + 1]) for axis in (0, 1))
        return self.active_weights() * height * width

    def deployed(self) -> nn.Conv2d:
        """A plain convolution with the zeros written into its weight."""
        plain = nn.Conv2d(**_settings(self), device="meta")
        plain.weight = nn.Parameter(self.effective_weight().detach().clone())
        plain.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return plain.train(self.training)


def build(dense: nn.Module) -> MaskedConv2d:
    """The kind `masked`: all weights active until `set_mask`. Raises UserError where `dense` is no Conv2d."""
    if not isinstance(dense, nn.Conv2d):
        raise UserError(f"kind 'masked' replaces a Conv2d, not a {type(dense).__name__}")
    return MaskedConv2d(dense, torch.ones_like(dense.weight, dtype=torch.bool))


def effective_weight(conv: nn.Conv2d) -> Tensor:
    """The weight that `conv` uses: masked where it is a MaskedConv2d, else as stored."""
    return conv.effective_weight() if isinstance(conv, MaskedConv2d) else conv.weight


def _settings(conv: nn.Conv2d) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(conv, name) for name in names} | {"bias": conv.bias is not None}


def output_size(conv: nn.Conv2d, axis: int, size: int) -> int:
    """How long the output of `conv` is along `axis` (0: height, 1: width) for an input of `size`."""
    reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
    named = {"same": reach, "valid": 0}
    padding = named[conv.padding] if isinstance(conv.padding, str) else 2 * int(conv.padding[axis])
    return (size + padding - reach - 1) // conv.stride[axis] + 1
