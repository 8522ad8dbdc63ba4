"""Layers on blocks of images, (blocks, channels, height, width, images): one weight meets all images of a block."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor, nn

from paredown.layers.geometry import output_size
from paredown.runtime import cpu_kernel
from paredown.runtime.packing import PackedConv2d, packed


def to_blocks(x: Tensor) -> Tensor:
    """Convert (B, C, H, W) to (ceil(B / images), C, H, W, images), padding the last block with zero images."""
    images = cpu_kernel.block_size()
    missing = -len(x) % images
    if missing:
        x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    return x.unflatten(0, (len(x) // images, images)).permute(0, 2, 3, 4, 1).contiguous()


def from_blocks(x: Tensor, batch: int) -> Tensor:
    """Convert blocks to their first `batch` images, (batch, C, H, W)."""
    return x.permute(0, 4, 1, 2, 3).flatten(0, 1)[:batch].contiguous()


class PerChannel(nn.Module):
    """A layer that treats channels independently (a pooling), applied to blocks as channels-last images whose channels
    are the block's images."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Map (blocks, C, H, W, images) to (blocks, C, H', W', images)."""
        y = self.layer(x.flatten(0, 1).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2]).contiguous()


class TiledMaxPool(nn.Module):
    """Max-pooling with stride equal to the window `size`, by maxima of strided slices: half the time of torch's
    pooling, a quarter for one image of 32 x 32. Maps that the windows do not tile go to `other`."""

    def __init__(self, size: int, other: nn.Module) -> None:
        super().__init__()
        self.size, self.other = size, other

    def forward(self, x: Tensor) -> Tensor:
        """Map (blocks, C, H, W, images) to (blocks, C, H / size, W / size, images), or (B, C, H, W) likewise."""
        if x.shape[2] % self.size or x.shape[3] % self.size:
            return self.other(x)
        rows = reduce(torch.maximum, [x[:, :, start :: self.size] for start in range(self.size)])
        return reduce(torch.maximum, [rows[:, :, :, start :: self.size] for start in range(self.size)])


def tiled(pool: nn.Module, other: nn.Module) -> nn.Module:
    """Return `pool` as a TiledMaxPool, with `other` for the maps that it leaves; `other` where it is none."""
    if type(pool) is nn.MaxPool2d and not pool.return_indices:  # a subclass may compute something else
        sizes = {pool.kernel_size, pool.stride}
        if sizes in ({2}, {3}, {4}) and (pool.padding, pool.dilation) == (0, 1):
            return TiledMaxPool(sizes.pop(), other)  # type: ignore[arg-type]
    return other


def pooling(pool: nn.Module) -> nn.Module:
    """Return the counterpart of torch's pooling layer `pool` on blocks."""
    return tiled(pool, PerChannel(pool))


class SparseConv2d(PackedConv2d):
    """The convolution `conv` on blocks by the CPU kernel, which skips its zero weights. Inference only.

    The output, plus a residual input if given, is clamped to [`low`, `high`]: a fused ReLU or ReLU6.
    """

    chunks: Tensor
    entries: Tensor
    order: Tensor

    def __init__(self, conv: nn.Conv2d, low: float = -math.inf, high: float = math.inf) -> None:
        super().__init__(conv, *packed(conv))
        self.low, self.high = low, high

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map blocks (n, M, H, W, images) to contiguous blocks (n, N, H', W', images) of the same dtype. Raise
        ValueError for a shape, dtype or device that does not fit."""
        if not self._fits(x):
            raise ValueError(f"blocks of {tuple(x.shape)} {x.dtype} on {x.device} do not fit {self}")
        n, channels, height, width, _ = x.shape
        size = output_size(self, height, width)
        output = x.new_empty(n, self.filters, *size, x.shape[4])
        if residual is not None and (residual.shape, residual.device) != (output.shape, x.device):
            raise ValueError(f"a residual of {tuple(residual.shape)} does not fit blocks of {tuple(output.shape)}")
        shape = (n, channels, height, width, self.filters, *size, *self.geometry)
        second = None if residual is None else residual.to(x.dtype).contiguous().resolve_neg()
        x = x.contiguous().resolve_neg()  # torch may keep a sign beside the values
        tensors = (x, self.weights, self.bias, second, output, self.chunks, self.entries, self.order)
        cpu_kernel.convolve(tensors, shape, self.low, self.high, cpu_kernel.FUNCTIONS[x.dtype])
        return output

    def _fits(self, x: Tensor) -> bool:
        """Tell whether the kernel can read `x`, and its output has a pixel: it trusts the sizes that it is given."""
        kinds = (x.dtype, self.bias.dtype, self.weights.dtype)
        if x.dim() != 5 or len({*kinds}) > 1 or x.dtype not in cpu_kernel.FUNCTIONS or x.device.type != "cpu":
            return False
        n, channels, height, width, lanes = x.shape
        pixels = min(height, width) > 0 or n == 0  # as torch, which takes an empty batch of empty images
        same = (channels, lanes) == (self.channels, cpu_kernel.block_size()) and x.layout == torch.strided
        return same and pixels and min(output_size(self, height, width)) > 0
