"""Strided 1 x 1 convolutions in training on the CPU.

In channels-last, without AVX-512 and with input channels that are no multiple of 8, oneDNN's weight gradient of such a
convolution writes out of bounds (torch 2.14.1: heap corruption). Dropping the skipped positions first computes the same
products as a convolution of stride 1, which is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType

from torch import Tensor, nn
from torch.nn.functional import conv2d

BLOCK = 8  # channels of one of oneDNN's blocks


def is_affected(conv: nn.Conv2d) -> bool:
    """Tell whether oneDNN may compute the weight gradient of `conv` out of bounds."""
    return (
        conv.kernel_size == (1, 1)
        and conv.stride != (1, 1)
        and conv.padding in ((0, 0), "valid")
        and conv.groups == 1
        and conv.in_channels % BLOCK != 0
    )


def conv_forward(conv: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `conv` of `x` (B, c, H, W) with `weight` and `bias` instead of its own."""
    if is_affected(conv):
        return conv2d(x[..., :: conv.stride[0], :: conv.stride[1]], weight, bias)
    return conv._conv_forward(x, weight, bias)


@contextmanager
def subsampled(model: nn.Module) -> Iterator[None]:
    """Let the affected convolutions of `model` drop the positions they skip while the context lasts."""
    convs = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d) and is_affected(layer)]
    for conv in convs:
        conv._conv_forward = MethodType(conv_forward, conv)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for conv in convs:
            del conv._conv_forward
