"""Convolutions for few images by the CPU kernel: a vector holds neighbouring pixels of one image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from paredown.layers.geometry import output_size
from paredown.runtime import cpu_kernel
from paredown.runtime.packing import PackedConv2d, packed

FEW = 8  # images: with more, blocks of 16 images (of 8 without AVX-512) are at least half full


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
        kinds, size = (x.dtype, self.weights.dtype, self.bias.dtype), (0, 0)
        plain = len({*kinds}) == 1 and x.dtype in cpu_kernel.PIXEL_FUNCTIONS and x.layout == torch.strided
        if plain and x.device.type == "cpu" and x.dim() == 4 and x.shape[1] == self.channels:
            size = output_size(self, *x.shape[2:])
        if min(size) < 1:
            raise ValueError(f"maps of {tuple(x.shape)} {x.dtype} on {x.device} do not fit {self}")
        output = x.new_empty(len(x), self.filters, *size)
        shape = (*x.shape, self.filters, *size, *self.geometry)
        x = x.contiguous().resolve_neg()  # torch may keep a sign beside the values
        tensors = (x, self.weights, self.bias, None, output, self.chunks, self.entries, self.order)
        cpu_kernel.convolve(tensors, shape, -math.inf, math.inf, cpu_kernel.PIXEL_FUNCTIONS[x.dtype])
        return output
