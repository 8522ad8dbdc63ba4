"""The kind `interspace`: a convolution whose kernels are sums over a trained basis, and whose coefficients are masked
(Wimmer, Mehnert and Condurache, CVPR 2022)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core.errors import UserError
from paredown.layers.geometry import bordered, output_size
from paredown.layers.masked import MaskedConv2d
from paredown.layers.replaceable import is_replaceable


class InterspaceConv2d(MaskedConv2d):
    """A copy of `dense` whose `weight` (N, M, Kh, Kw) holds the masked coefficients of each kernel, row-major, in the
    rows of `basis` (Kh Kw, Kh Kw), which all kernels of the layer share; at first these are the unit kernels."""

    def __init__(self, dense: nn.Conv2d, mask: Tensor) -> None:
        super().__init__(dense, mask)
        self.basis = nn.Parameter(torch.eye(math.prod(self.kernel_size), dtype=dense.weight.dtype).to(dense.weight))

    @torch.no_grad()
    def change_basis(self, basis: Tensor) -> None:
        """Take the orthonormal `basis`, and the coefficients that give the same kernels. The mask must be of ones."""
        self.weight.copy_((self.effective_weight().flatten(2) @ basis.T).view_as(self.weight))
        self.basis.copy_(basis)

    def effective_weight(self) -> Tensor:
        """Compute the kernels, in the weight's shape."""
        return (super().effective_weight().flatten(2) @ self.basis).view_as(self.weight)

    def active_weights(self) -> int:
        """Count the coefficients that the mask keeps, and the basis."""
        return super().active_weights() + self.basis.numel()

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Count a multiply-add per active coefficient and output position, and those of the basis on each channel."""
        per_position = int(self.mask.sum()) + self.in_channels * self.basis.numel()
        return per_position * math.prod(output_size(self, *input_shape[1:]))

    def deployed(self) -> nn.Module:
        """Return the basis on each channel, and a 1 x 1 convolution of what it gives."""
        return Interspace(self)


class AlongChannels(nn.Conv2d):
    """A convolution of each channel alone with the same kernels. The channels are the depth of one in three dimensions:
    as images of a larger batch, torch.export would make the batch an expression."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, M, H, W) to (B, M n, H', W') with n kernels, those of a channel one after the other."""
        steps = ((1, *self.stride), 0, (1, *self.dilation))
        padded = bordered(self, x)[:, None]
        return functional.conv3d(padded, self.weight[:, :, None], None, *steps).transpose(1, 2).flatten(1, 2)


class Interspace(nn.Module):
    """The convolution of every input channel with the kernels of a basis, then a sparse 1 x 1 convolution."""

    def __init__(self, trained: InterspaceConv2d) -> None:
        super().__init__()
        size, channels, weight = len(trained.basis), trained.in_channels, trained.weight
        geometry: dict[str, Any] = {
            name: getattr(trained, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        }
        self.basis = AlongChannels(1, size, **geometry, bias=False, device="meta")
        self.points = nn.Conv2d(channels * size, len(weight), 1, bias=trained.bias is not None, device="meta")
        self.basis.weight = nn.Parameter(trained.basis.detach().clone().view(size, 1, *trained.kernel_size))
        masked = weight.detach() * trained.mask
        self.points.weight = nn.Parameter(masked.view(len(weight), channels * size, 1, 1))
        if trained.bias is not None:
            self.points.bias = nn.Parameter(trained.bias.detach().clone())
        self.train(trained.training)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, M, H, W) to (B, N, H', W')."""
        return self.points(self.basis(x))


def fits(layer: nn.Module) -> bool:
    """Tell whether the kind replaces `layer`: a replaceable convolution of kernels above 1 x 1, not in groups."""
    large = isinstance(layer, nn.Conv2d) and layer.groups == 1 and math.prod(layer.kernel_size) > 1
    return large and is_replaceable(layer)


def build(dense: nn.Module) -> InterspaceConv2d:
    """Build the kind `interspace` of unit kernels, with all coefficients active until `set_mask`. Raise UserError where
    it does not fit."""
    if not isinstance(dense, nn.Conv2d) or not fits(dense):
        raise UserError("kind 'interspace' replaces a convolution without groups and of kernels above 1 x 1")
    return InterspaceConv2d(dense, torch.ones_like(dense.weight, dtype=torch.bool))
