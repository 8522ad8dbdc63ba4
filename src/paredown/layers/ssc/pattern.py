"""The sparsity pattern of a structured sparse convolution (SSC), from the layer's size and (g, p) alone.

Verma et al., "Pushing the Efficiency Limit Using Structured Sparse Convolutions", WACV 2023, section 2. `g` is the
spacing of K x K kernels along a filter's input channels, `p` the spacing of 1 x 1 kernels among the other channels;
0 means none. Filters and channels count from 0 here, from 1 in the paper.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from paredown.core.errors import UserError, nearest

Parity = Literal["halves", "alternate", "block"]
Kernel = Literal["parity", "full"]


def support(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    g: int,
    p: int,
    parity: Parity = "halves",
    kernel: Kernel = "parity",
) -> Tensor:
    """Return the mask of the weights, boolean (out_channels, in_channels, K, K); section 2, eq. 3 and the shift.

    An odd filter's K x K kernels use the odd taps (row-major, from 0), an even filter's the even ones, `kernel="full"`
    all; a 1 x 1 kernel is the centre tap. Raise UserError unless 0 <= g <= M and 0 <= p <= the channels without K x K.
    """
    check(in_channels, kernel_size, g, p, parity, kernel)
    filters, taps = torch.arange(out_channels), torch.arange(kernel_size**2)
    spread, point = (torch.from_numpy(base) for base in base_pattern(in_channels, g, p))
    source = (torch.arange(in_channels) - ((filters + 1) % spacing(g, p))[:, None]) % in_channels
    odd = _odd_filters(filters, out_channels, spacing(g, p), parity)
    window = (taps % 2 == 1) == odd[:, None] if kernel == "parity" else torch.ones(out_channels, len(taps)).bool()
    centre = taps == kernel_size**2 // 2
    mask = spread[source][:, :, None] & window[:, None, :] | point[source][:, :, None] & centre
    return mask.reshape(out_channels, in_channels, kernel_size, kernel_size)


def nonzeros(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    g: int,
    p: int,
    parity: Parity = "halves",
    kernel: Kernel = "parity",
) -> int:
    """Count the weights of `support` in closed form (the exact count behind eq. 4 to 8). Raise as `support` does."""
    check(in_channels, kernel_size, g, p, parity, kernel)
    return int(nonzero_counts(in_channels, out_channels, kernel_size, np.asarray(g), np.asarray(p), parity, kernel))


def nonzero_counts(
    in_channels: int, out_channels: int, kernel_size: int, g: Any, p: Any, parity: str, kernel: str
) -> Any:
    """Compute `nonzeros` for numpy arrays of valid `g` and `p`, which broadcast, without checks."""
    spread = np.where(g > 0, in_channels // np.maximum(g, 1), 0)
    point = np.where(p > 0, (in_channels - spread) // np.maximum(p, 1), 0)
    area = kernel_size**2
    if kernel == "full":
        return out_channels * (spread * area + point)
    q = np.maximum(np.maximum(g, p), 1)
    blocks = out_channels // (2 * q) * q + np.minimum(out_channels % (2 * q), q)
    odd = blocks if parity == "block" else (out_channels + 1) // 2
    return spread * (odd * (area // 2) + (out_channels - odd) * (area - area // 2)) + out_channels * point


def spacing(g: int, p: int) -> int:
    """Return q = max(g, p), the number of filters after which the shift repeats."""
    return max(g, p, 1)


def check(in_channels: int, kernel_size: int, g: int, p: int, parity: str, kernel: str) -> None:
    """Raise UserError unless an SSC layer of this size can have these settings."""
    layer = f"an SSC layer of {in_channels} input channels and a {kernel_size} x {kernel_size} kernel"
    if kernel_size % 2 == 0:
        raise UserError(f"{layer}: the kernel's size must be odd (an even one has no centre tap)")
    if kernel_size == 1 and g != 0:
        raise UserError(f"{layer} has only its centre tap: g={g} must be 0")
    if not 0 <= g <= in_channels:
        raise UserError(f"{layer}: g={g} must lie in 0..{in_channels}")
    left = in_channels - (in_channels // g if g else 0)
    if not 0 <= p <= left:
        raise UserError(f"{layer} and g={g}: p={p} must lie in 0..{left}, the channels that g leaves over")
    if g == p == 0:
        raise UserError(f"{layer}: g=0 and p=0 leave no weights, one of them must be at least 1")
    if parity not in get_args(Parity):
        raise UserError(f"parity={parity!r}: {nearest(parity, get_args(Parity))}")
    if kernel not in get_args(Kernel):
        raise UserError(f"kernel={kernel!r}: {nearest(kernel, get_args(Kernel))}")


def base_pattern(in_channels: int, g: int, p: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the channels with a K x K and those with a 1 x 1 kernel before the shift, boolean, (M,) each."""
    position = np.arange(1, in_channels + 1)
    spread = position % g == 0 if g else np.zeros(in_channels, dtype=bool)
    rank = position - (position // g if g else 0)
    point = ~spread & (rank % p == 0) if p else np.zeros(in_channels, dtype=bool)
    return spread, point


def _odd_filters(filters: Tensor, out_channels: int, q: int, parity: str) -> Tensor:
    if parity == "halves":
        return filters < (out_channels + 1) // 2
    return (filters if parity == "alternate" else filters // q) % 2 == 0
