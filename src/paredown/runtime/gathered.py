"""Convolutions whose non-zero weights are gathered by class, for the Triton kernel (`triton_kernel`) on GPUs."""

from __future__ import annotations

import logging
import subprocess
import sys
from functools import cache
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.layers.geometry import output_size
from paredown.runtime.packing import PackedConv2d, with_one_pattern

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
NARROWEST, WIDEST = 16, 64  # filters of a tile: what a matrix unit takes, and what fits into registers
CHECK_SECONDS = 300  # for a process that imports torch and compiles the kernel for each precision
log = logging.getLogger("paredown")


@cache
def available() -> bool:
    """Return whether the Triton kernel computes what it must on this machine's GPU, by a process of its own: an error
    on a GPU would take all later work of a process with it. The log says why it does not."""
    if not torch.cuda.is_available() or find_spec("triton") is None:
        return False
    command = [sys.executable, "-m", "paredown.runtime.gathered_check", "cuda"]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=CHECK_SECONDS)
        reason = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    else:
        if not ended.returncode:
            return True
    log.warning("no Triton kernel, library operators run instead: %s", reason)
    return False


class GatheredConv2d(PackedConv2d):
    """The convolution `conv` without its zero weights: by the Triton kernel on a GPU; elsewhere, for its proof in
    float64, by torch with the weights put back from what the kernel reads. Inference only."""

    TABLES = ("tiles", "order", "places")
    tiles: Tensor
    order: Tensor
    places: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(conv, *packed(conv))
        self.columns = max(NARROWEST, 1 << (int(self.tiles[:, 1].max()) - 1).bit_length())

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, M, H, W) to (B, N, H', W') in the memory format of `x`."""
        if not x.is_cuda:
            settings = (self.bias, self.stride, self.padding, self.dilation)
            return functional.conv2d(x, self.dense_weight(), *settings)
        if (x.dtype, x.shape[1:2]) != (self.weights.dtype, (self.channels,)) or x.dtype not in DTYPES:
            raise ValueError(f"{tuple(x.shape)} {x.dtype} does not fit {self}")
        return self.by_kernel(x)

    def by_kernel(self, x: Tensor) -> Tensor:
        """Map (B, M, H, W) to (B, N, H', W') by the kernel, which trusts what it is given."""
        from paredown.runtime.triton_kernel import convolve

        layout = torch.channels_last if x.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        y = torch.empty((len(x), self.filters, *self._size(x)), dtype=x.dtype, device=x.device, memory_format=layout)
        table = (self.weights, self.bias, self.tiles, self.order, self.places)
        convolve(x.resolve_neg(), *table, y, self.columns, self.stride, self.padding)  # type: ignore[arg-type]
        return y

    def dense_weight(self) -> Tensor:
        """Return the weight (N, M, kh, kw) with its zeros, convolution groups multiplied out, from what is packed."""
        weight = self.weights.new_zeros(self.filters, self.channels, *self.kernel_size)
        for first, count, place, places, start, pitch in self.tiles.tolist():
            filters = self.order[first : first + count].long()
            channel, down, along = self.places[place : place + places].long().T
            rows = start + torch.arange(places, device=weight.device)[:, None] * pitch
            values = self.weights[rows + torch.arange(count, device=weight.device)]
            taps = (down // self.dilation[0], along // self.dilation[1])
            weight[filters[None], channel[:, None], taps[0][:, None], taps[1][:, None]] = values
        return weight

    def _size(self, x: Tensor) -> tuple[int, int]:
        """Return H' and W'. Raise ValueError where no output pixel is left."""
        size = output_size(self, *x.shape[2:])
        if min(size) < 1:
            raise ValueError(f"images of {tuple(x.shape[2:])} leave no output of {self}")
        return size


def packed(conv: nn.Conv2d) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pack the weight of `conv` as the kernel reads it.

    Return tiles of at most WIDEST filters with one pattern (fields: `triton_kernel.TILE_FIELDS`); the filters in their
    order; the places (channel, row, column) of each pattern's weights, dilated; the weights, (places, filters) a class.
    """
    weight = conv.weight.detach().cpu().double().numpy()
    n, inputs, kh, kw = weight.shape
    values = weight.reshape(n, -1)
    tiles: list[tuple[int, ...]] = []
    order: list[int] = []
    places, weights = [np.zeros((0, 3), np.int64)], [np.zeros(0)]
    first_place = first_weight = 0
    for filters in with_one_pattern(values != 0, n // conv.groups):
        at = np.flatnonzero(values[filters[0]])
        channels = filters[0] // (n // conv.groups) * inputs + at // (kh * kw)
        down, along = at % (kh * kw) // kw * conv.dilation[0], at % kw * conv.dilation[1]
        for start in range(0, len(filters), WIDEST):
            count = min(WIDEST, len(filters) - start)
            tiles.append((len(order) + start, count, first_place, len(at), first_weight + start, len(filters)))
        places.append(np.stack([channels, down, along], axis=1))
        weights.append(values[filters][:, at].T.reshape(-1))
        order += filters
        first_place += len(at)
        first_weight += weights[-1].size
    return np.array(tiles), np.array(order), np.concatenate(places), np.concatenate(weights)
