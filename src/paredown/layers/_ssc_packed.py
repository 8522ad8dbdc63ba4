"""An SSC convolution without most of its zeros, differentiable and by library operators alone.

With the channels of both sides in the order of their residues modulo G, where G divides the spacings and the widths, a
filter's K x K kernels lie in its own of G groups of channels, and all its other weights on the centre tap: a grouped
convolution plus one of 1 x 1 (section 2 of the paper: filter f has its K x K kernels on channels m = f modulo g).
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from paredown.layers._ssc_pattern import spacing

LEAST = 16  # channels a group: with fewer, library kernels leave a part of each vector empty


def packed_groups(conv: nn.Conv2d, g: int, p: int) -> int:
    """Into how many groups `conv` as an SSC layer of these spacings is split: as many as leave each `LEAST` channels on
    both sides; 1 where there are no two."""
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return 1
    sizes = zip(conv.padding, conv.dilation, conv.kernel_size, strict=True)
    if any(2 * pad != dilation * (kernel - 1) for pad, dilation, kernel in sizes):  # the centre tap leaves the input
        return 1
    whole = gcd(g or p, spacing(g, p), conv.in_channels, conv.out_channels)
    narrower = min(conv.in_channels, conv.out_channels)
    return max(n for n in range(1, whole + 1) if whole % n == 0 and (narrower // n >= LEAST or n == 1))


def packed_convolution(conv: nn.Conv2d, mask: Tensor, groups: int, pointwise: bool, x: Tensor) -> Tensor:
    """What `conv` with its weight times `mask` makes of `x`, (B, M, H, W), to (B, N, H', W'). `mask` is an SSC pattern,
    `groups` as `packed_groups` gives them; `pointwise`: it has weights outside of its K x K kernels (p > 0)."""
    x = torch.channel_shuffle(x, conv.in_channels // groups)
    own = _within(conv.weight, groups) * _within(mask, groups)
    bias = None if conv.bias is None else conv.bias.unflatten(0, (-1, groups)).T.flatten()
    y = conv2d(x, own, bias, conv.stride, conv.padding, conv.dilation, groups)
    if pointwise:
        y += conv2d(x, _across(conv.weight, groups) * _across(mask, groups), None, conv.stride)
    return torch.channel_shuffle(y, groups)


def _within(values: Tensor, groups: int) -> Tensor:
    """Of (N, M, K, K), in residue-major order, what lies within the groups: (N, M / groups, K, K)."""
    return _by_residue(values, groups).diagonal(dim1=1, dim2=3).movedim(-1, 0).flatten(0, 1)


def _across(values: Tensor, groups: int) -> Tensor:
    """The centre taps of (N, M, K, K) in the same order, zero within the groups: (N, M, 1, 1)."""
    n, m, k, _ = values.shape
    others = ~torch.eye(groups, dtype=torch.bool, device=values.device)[:, None, :]
    centre = _by_residue(values[:, :, k // 2, k // 2], groups) * others
    return centre.permute(1, 0, 3, 2).reshape(n, m, 1, 1)


def _by_residue(values: Tensor, groups: int) -> Tensor:
    return values.unflatten(1, (-1, groups)).unflatten(0, (-1, groups))
