"""The settings of a convolution, its borders and the size of its output."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional


class Windows(Protocol):
    """What has the windows of a convolution: a layer of torch's, or a packed one."""

    @property
    def kernel_size(self) -> tuple[int, ...]: ...
    @property
    def stride(self) -> tuple[int, ...]: ...
    @property
    def padding(self) -> tuple[int, ...] | str: ...
    @property
    def dilation(self) -> tuple[int, ...]: ...


def settings(conv: nn.Conv2d) -> dict[str, Any]:
    """Return the arguments that build a convolution of the shape of `conv`."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(conv, name) for name in names} | {"bias": conv.bias is not None}


def bordered(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return `x` (B, M, H, W) with the borders that `conv` gives it, of any padding mode."""
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return functional.pad(x, conv._reversed_padding_repeated_twice, mode)


def output_size(conv: Windows, height: int, width: int) -> tuple[int, int]:
    """Compute the height and width of the output of `conv` for an input of `height` and `width`."""
    return _along(conv, 0, height), _along(conv, 1, width)


def _along(conv: Windows, axis: int, size: int) -> int:
    reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
    named = {"same": reach, "valid": 0}
    padding = named[conv.padding] if isinstance(conv.padding, str) else 2 * int(conv.padding[axis])
    return (size + padding - reach - 1) // conv.stride[axis] + 1
