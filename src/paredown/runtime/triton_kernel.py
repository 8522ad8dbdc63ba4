"""Convolution by the non-zero weights alone, in Triton, for GPUs: an implicit matrix product over gathered inputs.

Filters with their weights at the same places (a class of an SSC layer) form a matrix product: rows are output
positions, columns filters, and the inner dimension the places (channel, tap) that the class has weights at. The inputs
at these places are gathered while the product runs, so that no zero is multiplied and nothing is copied. Sums are
fp32. Import it late: Triton is installed beside torch for GPUs alone.
"""

# ruff: noqa: ANN001, ANN202 (the arguments of a kernel are pointers and numbers of Triton's)
from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from triton import language as tl

ROWS, INNER = 64, 32  # of a block of the product
TILE_FIELDS = 6  # of a tile: first filter, filters, first place, places, first weight, filters in its class


@triton.jit
def _product(  # type: ignore[no-untyped-def]
    x, weights, bias, y, tiles, order, places, positions, height, width, out_height, out_width,
    x_image, x_channel, x_row, x_column, y_image, y_channel, y_row, y_column,
    stride_h, stride_w, pad_h, pad_w,
    FIELDS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr,
    WIDEN: tl.constexpr,
):  # fmt: skip
    tile = tiles + tl.program_id(1) * FIELDS
    first, filters, place, count = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3)
    weight, pitch = tl.load(tile + 4), tl.load(tile + 5)
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    image, rest = at // (out_height * out_width), at % (out_height * out_width)
    row, column = rest // out_width, rest % out_width
    alive = at < positions
    lane = tl.arange(0, COLUMNS)
    used = lane < filters
    sums = tl.zeros((ROWS, COLUMNS), dtype=tl.float32)
    for start in range(0, count, INNER):
        inner = start + tl.arange(0, INNER)
        within = inner < count
        here = places + (place + inner) * 3
        channel = tl.load(here, mask=within, other=0)
        down = row[:, None] * stride_h - pad_h + tl.load(here + 1, mask=within, other=0)[None, :]
        along = column[:, None] * stride_w - pad_w + tl.load(here + 2, mask=within, other=0)[None, :]
        inside = (down >= 0) & (down < height) & (along >= 0) & (along < width)
        inputs = x + image[:, None] * x_image + channel[None, :] * x_channel + down * x_row + along * x_column
        a = tl.load(inputs, mask=inside & alive[:, None] & within[None, :], other=0.0)
        b = weights + weight + inner[:, None] * pitch + lane[None, :]
        b = tl.load(b, mask=within[:, None] & used[None, :], other=0.0)
        if WIDEN:
            a, b = a.to(tl.float32), b.to(tl.float32)
        sums = tl.dot(a, b, sums, input_precision="ieee")  # TF32 has the 10 bits of fp16
    filter_ = tl.load(order + first + lane, mask=used, other=0)
    sums += tl.load(bias + filter_, mask=used, other=0.0).to(tl.float32)[None, :]
    outputs = y + image[:, None] * y_image + filter_[None, :] * y_channel + row[:, None] * y_row
    outputs += column[:, None] * y_column
    tl.store(outputs, sums.to(y.dtype.element_ty), mask=alive[:, None] & used[None, :])


def convolve(
    x: Tensor, weights: Tensor, bias: Tensor, tiles: Tensor, order: Tensor, places: Tensor, y: Tensor, columns: int,
    stride: tuple[int, int], padding: tuple[int, int],
) -> None:  # fmt: skip
    """Write the convolution of `x` (B, M, H, W) to `y` (B, N, H', W'), both with any strides. `gathered.packed` makes
    `weights`, `tiles`, `order` and `places`; `columns` is the power of two that no tile has more filters than."""
    positions = len(y) * y.shape[2] * y.shape[3]
    if not positions or not len(tiles):
        return
    grid = (triton.cdiv(positions, ROWS), len(tiles))
    sizes = (positions, *x.shape[2:], *y.shape[2:], *x.stride(), *y.stride(), *stride, *padding)
    blocks: dict[str, Any] = {"FIELDS": TILE_FIELDS, "ROWS": ROWS, "COLUMNS": columns, "INNER": INNER}
    # numpy, by which the interpreter computes, has no bf16
    blocks["WIDEN"] = triton.knobs.runtime.interpret and x.dtype == torch.bfloat16
    with torch.cuda.device_of(x):
        _product[grid](x, weights, bias, y, tiles, order, places, *sizes, **blocks)
