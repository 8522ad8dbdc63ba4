"""Convolutions for few images by the CPU kernel: a vector holds neighbouring pixels of one image, not 16 images."""

from __future__ import annotations

import math

from torch import Tensor, nn

from paredown.runtime import cpu_kernel
from paredown.runtime.packing import PackedConv2d, packed

FEW = 8  # images: with more, blocks of 16 images are at least half full
SLACK = 16  # values that the kernel's last vector may read and write behind a map


class PixelConv2d(PackedConv2d):
    """The convolution `conv`, of stride 1, on maps (B, M, H, W) by the CPU kernel, which skips its zero weights.
    Inference only."""

    chunks: Tensor
    entries: Tensor
    order: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv, *packed(conv))
        if set(conv.stride) != {1}:
            raise ValueError(f"stride={conv.stride}")

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, M, H, W) in any memory format to contiguous (B, N, H', W'). Raise ValueError for a shape, dtype or
        device that does not fit."""
        kinds = (x.dtype, self.weights.dtype, self.bias.dtype)
        fits = len({*kinds}) == 1 and x.dtype in cpu_kernel.PIXEL_FUNCTIONS and x.device.type == "cpu"
        if not fits or x.dim() != 4 or x.shape[1] != self.channels or min(self._size(x)) < 1:
            raise ValueError(f"maps of {tuple(x.shape)} {x.dtype} on {x.device} do not fit {self}")
        bordered = self._bordered(x)
        n, _, height, width = bordered.shape
        rows, columns = self._size(x)
        step = rows * width + SLACK
        output = x.new_empty(n, self.filters, step)
        shape = (n, self.channels, height, width, self.filters, rows, columns)
        geometry = (*self.kernel, step, 1, 0, 0, *self.dilation)
        tensors = (bordered, self.weights, self.bias, None, output, self.chunks, self.entries, self.order)
        function = cpu_kernel.PIXEL_FUNCTIONS[x.dtype]
        cpu_kernel.convolve(tensors, (*shape, *geometry), -math.inf, math.inf, function)
        return output[..., : rows * width].unflatten(2, (rows, width))[..., :columns].contiguous()

    def _bordered(self, x: Tensor) -> Tensor:
        """Copy `x` into maps with their borders of zeros, in memory that goes on for SLACK values."""
        down, along = (int(side) for side in self.padding)
        shape = (*x.shape[:2], x.shape[2] + 2 * down, x.shape[3] + 2 * along)
        maps = x.new_zeros(math.prod(shape) + SLACK)[: math.prod(shape)].view(shape)
        maps[:, :, down : down + x.shape[2], along : along + x.shape[3]] = x
        return maps

    def _size(self, x: Tensor) -> tuple[int, int]:
        along = zip(x.shape[2:], self.padding, self.dilation, self.kernel, strict=True)
        rows, columns = (side + 2 * int(p) - d * (k - 1) for side, p, d, k in along)
        return rows, columns

    def extra_repr(self) -> str:
        """Describe the convolution."""
        settings = f"kernel_size={self.kernel}, padding={self.padding}, dilation={self.dilation}"
        return f"{self.channels}, {self.filters}, weights={len(self.weights)}, {settings}"
