"""Layers on blocks of 16 images, (blocks, channels, height, width, 16), where one weight meets 16 images at once."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor, nn

from paredown.runtime import cpu_kernel
from paredown.runtime.packing import PackedConv2d, packed

LANES = 16


def to_blocks(x: Tensor) -> Tensor:
    """Convert (B, C, H, W) to (ceil(B / 16), C, H, W, 16), padding the last block with zero images."""
    missing = -len(x) % LANES
    if missing:
        x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    return x.unflatten(0, (len(x) // LANES, LANES)).permute(0, 2, 3, 4, 1).contiguous()


def from_blocks(x: Tensor, batch: int) -> Tensor:
    """Convert blocks to their first `batch` images, (batch, C, H, W)."""
    return x.permute(0, 4, 1, 2, 3).flatten(0, 1)[:batch].contiguous()


class PerChannel(nn.Module):
    """A layer that treats channels independently (a pooling), applied to blocks as channels-last images of 16
    channels."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Map (blocks, C, H, W, 16) to (blocks, C, H', W', 16)."""
        y = self.layer(x.flatten(0, 1).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2]).contiguous()


class TiledMaxPool(nn.Module):
    """Max-pooling with stride equal to the window `size`, by maxima of strided slices: half the time of torch's
    pooling. Maps that the windows do not tile go to torch's."""

    def __init__(self, pool: nn.MaxPool2d, size: int) -> None:
        super().__init__()
        self.other, self.size = PerChannel(pool), size

    def forward(self, x: Tensor) -> Tensor:
        """Map (blocks, C, H, W, 16) to (blocks, C, H / size, W / size, 16)."""
        if x.shape[2] % self.size or x.shape[3] % self.size:
            return self.other(x)
        rows = reduce(torch.maximum, [x[:, :, start :: self.size] for start in range(self.size)])
        return reduce(torch.maximum, [rows[:, :, :, start :: self.size] for start in range(self.size)])


def pooling(pool: nn.Module) -> nn.Module:
    """Return the counterpart of torch's pooling layer `pool` on blocks."""
    if isinstance(pool, nn.MaxPool2d):
        sizes = {pool.kernel_size, pool.stride}
        if sizes in ({2}, {3}, {4}) and (pool.padding, pool.dilation) == (0, 1):
            return TiledMaxPool(pool, sizes.pop())  # type: ignore[arg-type]
    return PerChannel(pool)


class SparseConv2d(PackedConv2d):
    """The convolution `conv` on blocks by the CPU kernel, which skips its zero weights. Inference only.

    The output, plus a residual input if given, is clamped to [`low`, `high`]: a fused ReLU or ReLU6.
    """

    chunks: Tensor
    entries: Tensor
    order: Tensor

    def __init__(self, conv: nn.Conv2d, low: float = -math.inf, high: float = math.inf) -> None:
        super().__init__(conv, *packed(conv))
        self.geometry = (*conv.kernel_size, *conv.stride, *self.padding, *conv.dilation)
        if min(*conv.kernel_size, *conv.stride, *conv.dilation) < 1 or min(self.padding) < 0:
            raise ValueError(f"kernel_size={conv.kernel_size}, stride={conv.stride}, dilation={conv.dilation}: below 1")
        self.low, self.high = low, high

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map blocks (n, M, H, W, 16) to contiguous blocks (n, N, H', W', 16) of the same dtype. Raise ValueError for
        a shape, dtype or device that does not fit."""
        if not self._fits(x):
            raise ValueError(f"blocks of {tuple(x.shape)} {x.dtype} on {x.device} do not fit {self}")
        n, channels, height, width, _ = x.shape
        size = self._output_size(height, width)
        output = x.new_empty(n, self.filters, *size, LANES)
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
        same = (channels, lanes) == (self.channels, LANES) and x.layout == torch.strided
        return same and pixels and min(self._output_size(height, width)) > 0

    def _output_size(self, height: int, width: int) -> tuple[int, int]:
        kh, kw, sh, sw, ph, pw, dh, dw = self.geometry
        return (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1

    def extra_repr(self) -> str:
        return f"{self.channels}, {self.filters}, weights={len(self.weights)}, geometry={self.geometry}"
