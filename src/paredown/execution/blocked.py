"""Images in blocks of 16: maps as (blocks, channels, height, width, 16), so that one weight meets 16 images at once."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn

from paredown.execution import native

LANES = 16
WIDTHS = (8, 4, 2, 1)  # how many filters the kernel takes at once


def to_blocks(x: Tensor) -> Tensor:
    """(B, C, H, W) as (ceil(B / 16), C, H, W, 16); what is missing of the last block is zero."""
    missing = -len(x) % LANES
    if missing:
        x = torch.cat([x, x.new_zeros(missing, *x.shape[1:])])
    return x.unflatten(0, (-1, LANES)).permute(0, 2, 3, 4, 1).contiguous()


def from_blocks(x: Tensor, batch: int) -> Tensor:
    """The first `batch` images of blocks, (batch, C, H, W)."""
    return x.permute(0, 4, 1, 2, 3).flatten(0, 1)[:batch].contiguous()


class PerChannel(nn.Module):
    """A layer that treats each channel alone (a pooling) on blocks: to it they are channels-last images of 16
    channels."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """(blocks, C, H, W, 16) to (blocks, C, H', W', 16)."""
        y = self.layer(x.flatten(0, 1).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2]).contiguous()


class TiledMaxPool(nn.Module):
    """A max-pooling whose windows of `size` x `size` tile the map, on blocks: whole vectors against each other, which
    takes half the time of torch's pooling. Any other map is pooled by torch."""

    def __init__(self, pool: nn.MaxPool2d, size: int) -> None:
        super().__init__()
        self.other, self.size = PerChannel(pool), size

    def forward(self, x: Tensor) -> Tensor:
        """(blocks, C, H, W, 16) to (blocks, C, H / size, W / size, 16)."""
        if x.shape[2] % self.size or x.shape[3] % self.size:
            return self.other(x)
        rows = reduce(torch.maximum, [x[:, :, start :: self.size] for start in range(self.size)])
        return reduce(torch.maximum, [rows[:, :, :, start :: self.size] for start in range(self.size)])


def pooling(pool: nn.Module) -> nn.Module:
    """`pool`, a pooling of torch, on blocks."""
    if isinstance(pool, nn.MaxPool2d):
        sizes = {pool.kernel_size, pool.stride}
        if sizes in ({2}, {3}, {4}) and (pool.padding, pool.dilation) == (0, 1):
            return TiledMaxPool(pool, sizes.pop())  # type: ignore[arg-type]
    return PerChannel(pool)


class SparseConv2d(nn.Module):
    """The convolution `conv` on blocks, by the native kernel: nothing is multiplied by a zero of its weight.

    An activation that clamps to [low, high] follows, after the sum with a second input where one is given. Only to run.
    """

    chunks: Tensor
    entries: Tensor
    order: Tensor

    def __init__(self, conv: nn.Conv2d, low: float = -math.inf, high: float = math.inf) -> None:
        super().__init__()
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(f"padding={conv.padding!r}, padding_mode={conv.padding_mode!r}")
        self.channels, self.filters = conv.in_channels, conv.out_channels
        self.geometry = (*conv.kernel_size, *conv.stride, *conv.padding, *conv.dilation)
        self.low, self.high = low, high
        chunks, entries, order, weights = _packed(conv.weight.detach().cpu().numpy(), conv.groups)
        for name, values in (("chunks", chunks), ("entries", entries), ("order", order)):
            self.register_buffer(name, torch.from_numpy(values.astype(np.int32)))
        self.weights = nn.Parameter(torch.from_numpy(weights), requires_grad=False)
        bias = conv.weight.new_zeros(self.filters) if conv.bias is None else conv.bias.detach().clone()
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Blocks (n, M, H, W, 16) to (n, N, H', W', 16), contiguous, of the layer's dtype."""
        n, channels, height, width, lanes = x.shape
        size = self._output_size(height, width)
        output = x.new_empty(n, self.filters, *size, LANES)
        fitting = channels == self.channels and lanes == LANES and (residual is None or residual.shape == output.shape)
        if not fitting or {x.dtype, output.dtype} != {self.weights.dtype} or x.device.type != "cpu":
            raise ValueError(f"blocks of {tuple(x.shape)} {x.dtype} on {x.device} do not fit {self}")
        shape = (n, channels, height, width, self.filters, *size, *self.geometry)
        second = None if residual is None else residual.to(x.dtype).contiguous()
        tensors = (x.contiguous(), self.weights, self.bias, second, output, self.chunks, self.entries, self.order)
        native.convolve(tensors, shape, self.low, self.high, x.dtype)
        return output

    def _output_size(self, height: int, width: int) -> tuple[int, int]:
        kh, kw, sh, sw, ph, pw, dh, dw = self.geometry
        return (height + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (width + 2 * pw - dw * (kw - 1) - 1) // sw + 1

    def extra_repr(self) -> str:
        """Channels, weights and geometry."""
        return f"{self.channels}, {self.filters}, weights={len(self.weights)}, geometry={self.geometry}"


Array = np.ndarray


def _packed(weight: Array, groups: int) -> tuple[Array, Array, Array, Array]:
    """`weight` (N, M / groups, kh, kw) as the kernel reads it: chunks of filters that have weights at the same places
    (number of filters, first entry, entries, first weight), entries (channel, tap), the filters in the order of the
    chunks, and their weights, (entries, filters) a chunk."""
    n, inputs, kh, kw = weight.shape
    values = weight.reshape(n, -1)
    chunks, entries, order, weights = [], [np.zeros((0, 2))], [], []
    first_entry = first_weight = 0
    for filters in _alike(values != 0, n // groups):
        places = np.flatnonzero(values[filters[0]])
        channels = filters[0] // (n // groups) * inputs + places // (kh * kw)
        for some in _split(filters):
            chunks.append((len(some), first_entry, len(places), first_weight))
            weights.append(values[some][:, places].T.reshape(-1))
            first_weight += len(some) * len(places)
            order += some
        entries.append(np.stack([channels, places % (kh * kw)], axis=1))
        first_entry += len(places)
    return np.array(chunks), np.concatenate(entries), np.array(order), np.concatenate(weights)


def _alike(live: Array, per_group: int) -> list[list[int]]:
    """The filters that share their places and their group."""
    found: dict[tuple[int, bytes], list[int]] = {}
    for index, row in enumerate(live):
        found.setdefault((index // per_group, row.tobytes()), []).append(index)
    return list(found.values())


def _split(filters: list[int]) -> list[list[int]]:
    pieces, at = [], 0
    for width in WIDTHS:
        while len(filters) - at >= width:
            pieces.append(filters[at : at + width])
            at += width
    return pieces
