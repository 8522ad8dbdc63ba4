"""Convolutions whose non-zero weights are stored one after the other, beside tables of where each belongs."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

Array = np.ndarray
WIDTHS = (8, 4, 2, 1)  # numbers of filters that the CPU kernel computes at once


class PackedConv2d(nn.Module):
    """What a convolution by a kernel holds: its bias, its packed `weights` and the buffers of TABLES, which say where
    they belong. Inference only. Raise ValueError for borders of anything but a given number of zeros."""

    TABLES = ("chunks", "entries", "order")

    def __init__(self, conv: nn.Conv2d, *packed: Array) -> None:
        super().__init__()
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(f"padding={conv.padding!r}, padding_mode={conv.padding_mode!r}")
        self.channels, self.filters, self.kernel_size = conv.in_channels, conv.out_channels, conv.kernel_size
        self.stride, self.padding, self.dilation = conv.stride, conv.padding, conv.dilation
        if min(*self.kernel_size, *self.stride, *self.dilation) < 1 or min(self.padding) < 0:
            raise ValueError(f"kernel_size={conv.kernel_size}, stride={conv.stride}, dilation={conv.dilation}: below 1")
        self.geometry = (*self.kernel_size, *self.stride, *self.padding, *self.dilation)
        *tables, weights = packed
        for name, values in zip(self.TABLES, tables, strict=True):
            self.register_buffer(name, torch.from_numpy(values.astype(np.int32)))
        self.weights = nn.Parameter(torch.from_numpy(weights).to(conv.weight), requires_grad=False)
        bias = conv.weight.new_zeros(self.filters) if conv.bias is None else conv.bias.detach().clone()
        self.bias = nn.Parameter(bias, requires_grad=False)

    def extra_repr(self) -> str:
        """Describe the convolution."""
        return f"{self.channels}, {self.filters}, weights={len(self.weights)}, geometry={self.geometry}"


def packed(conv: nn.Conv2d) -> tuple[Array, Array, Array, Array]:
    """Pack the weight of `conv` (N, M / groups, kh, kw) as the kernel reads it.

    Return chunks of filters with one sparsity pattern, (filters, first entry, entries, first weight) each; entries
    (channel, row, column); the filters in the order of the chunks; and the weights, (entries, filters) per chunk.
    """
    n, inputs, kh, kw = conv.weight.shape
    values = conv.weight.detach().cpu().double().reshape(n, -1).numpy()  # numpy has no bf16
    per_group = n // conv.groups
    chunks, entries, order, weights = [], [np.zeros((0, 3))], [], []
    first_entry = first_weight = 0
    for filters in with_one_pattern(values != 0, per_group):
        positions = np.flatnonzero(values[filters[0]])
        channels = filters[0] // per_group * inputs + positions // (kh * kw)
        for some in _split(filters):
            chunks.append((len(some), first_entry, len(positions), first_weight))
            weights.append(values[some][:, positions].T.reshape(-1))
            first_weight += len(some) * len(positions)
            order += some
        entries.append(np.stack([channels, positions % (kh * kw) // kw, positions % kw], axis=1))
        first_entry += len(positions)
    return np.array(chunks), np.concatenate(entries), np.array(order), np.concatenate(weights)


def with_one_pattern(live: Array, per_group: int) -> list[list[int]]:
    """Group the filters by convolution group and by the positions of their non-zero weights."""
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
