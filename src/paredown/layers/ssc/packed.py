"""The packed form of an SSC convolution: most zeros left out, differentiable, library operators only.

Let G divide the spacings and the widths, and sort the channels of both sides by their residues modulo G. Then a
filter's K x K kernels fall into one of G groups of channels and all its other weights are centre taps: a grouped
convolution plus a 1 x 1 one (section 2 of the paper: filter f has its K x K kernels on channels m = f modulo g).
"""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d

from paredown.layers.ssc.pattern import spacing

MIN_GROUP_CHANNELS = 16  # with fewer, library kernels leave a part of each vector empty


def packed_groups(conv: nn.Conv2d, g: int, p: int) -> int:
    """Return the number of groups into which `conv` splits as an SSC layer of these spacings: the most that leave each
    group MIN_GROUP_CHANNELS channels on both sides; 1 where it does not split."""
    if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return 1
    sizes = zip(conv.padding, conv.dilation, conv.kernel_size, strict=True)
    if any(2 * pad != dilation * (kernel - 1) for pad, dilation, kernel in sizes):  # the centre tap leaves the input
        return 1
    whole = gcd(g or p, spacing(g, p), conv.in_channels, conv.out_channels)
    narrower = min(conv.in_channels, conv.out_channels)
    wide_enough = (n for n in range(2, whole + 1) if whole % n == 0 and narrower // n >= MIN_GROUP_CHANNELS)
    return max(wide_enough, default=1)


def packed_convolution(conv: nn.Conv2d, mask: Tensor, groups: int, pointwise: bool, x: Tensor) -> Tensor:
    """Convolve `x` (B, M, H, W) to (B, N, H', W') with the weight of `conv` times `mask`, an SSC pattern. `groups` is
    what `packed_groups` returns; `pointwise`: the pattern has weights outside its K x K kernels (p > 0)."""
    x = torch.channel_shuffle(x, conv.in_channels // groups)
    weight = _within(conv.weight, groups) * _within(mask, groups)
    bias = None if conv.bias is None else conv.bias.unflatten(0, (-1, groups)).T.flatten()
    y = conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, groups)
    if pointwise:
        seen = x[..., :: conv.stride[0], :: conv.stride[1]]  # not a strided 1 x 1 convolution: see layers/strided.py
        y += conv2d(seen, _across(conv.weight, groups) * _across(mask, groups))
    return torch.channel_shuffle(y, groups)


def _within(values: Tensor, groups: int) -> Tensor:
    """Extract the entries of (N, M, K, K) within the groups, in residue-major order: (N, M / groups, K, K)."""
    return _by_residue(values, groups).diagonal(dim1=1, dim2=3).movedim(-1, 0).flatten(0, 1)


def _across(values: Tensor, groups: int) -> Tensor:
    """Extract the centre taps of (N, M, K, K) in the same order, zero within the groups: (N, M, 1, 1)."""
    n, m, k, _ = values.shape
    others = ~torch.eye(groups, dtype=torch.bool, device=values.device)[:, None, :]
    centre = _by_residue(values[:, :, k // 2, k // 2], groups) * others
    return centre.permute(1, 0, 3, 2).reshape(n, m, 1, 1)


def _by_residue(values: Tensor, groups: int) -> Tensor:
    return values.unflatten(1, (-1, groups)).unflatten(0, (-1, groups))
