"""The kind `ssc`: structured sparse convolution (Verma et al., WACV 2023)."""

from __future__ import annotations

from torch import Tensor, nn

from paredown.core.errors import UserError
from paredown.layers.masked import MaskedConv2d
from paredown.layers.ssc.packed import packed_convolution, packed_groups
from paredown.layers.ssc.pattern import Kernel, Parity, nonzeros, support


class SSCConv2d(MaskedConv2d):
    """A convolution whose filters have the shifted SSC pattern of (g, p); see `support` for the arguments.

    The mask follows from the arguments and is not in the state dict, so the weights of a dense layer load unchanged.
    """

    def __init__(self, dense: nn.Conv2d, g: int, p: int, parity: Parity, kernel: Kernel) -> None:
        pattern = (dense.in_channels, dense.out_channels, dense.kernel_size[0], g, p, parity, kernel)
        super().__init__(dense, support(*pattern), persistent=False)
        self.pattern = pattern
        self.groups_run = 1

    def pack(self) -> None:
        """Switch to the packed form where `packed_groups` finds one. Weights and state dict do not change."""
        self.groups_run = packed_groups(self, *self.pattern[3:5])

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, M, H, W) to (B, N, H', W')."""
        if self.groups_run == 1:
            return super().forward(x)
        pointwise = self.pattern[2] > 1 and self.pattern[4] > 0
        return packed_convolution(self, self.mask, self.groups_run, pointwise, x)

    def active_weights(self) -> int:
        """Count the weights of the pattern in closed form, without reading the mask."""
        return nonzeros(*self.pattern)

    def extra_repr(self) -> str:
        """Describe the convolution and its pattern."""
        *_, g, p, parity, kernel = self.pattern
        return f"{super().extra_repr()}, g={g}, p={p}, parity={parity}, kernel={kernel}"


def build(dense: nn.Module, g: int, p: int, parity: Parity = "halves", kernel: Kernel = "parity") -> SSCConv2d:
    """Return `dense` without the weights outside `support`; stride, padding, dilation and bias stay.

    Raise UserError for anything but an ungrouped Conv2d with a square kernel, and where `support` does.
    """
    if not isinstance(dense, nn.Conv2d) or dense.groups != 1:
        groups = f" with groups={dense.groups}" if isinstance(dense, nn.Conv2d) else ""
        raise UserError(f"kind 'ssc' replaces a Conv2d with groups=1, not a {type(dense).__name__}{groups}")
    if dense.kernel_size[0] != dense.kernel_size[1]:
        raise UserError(f"kind 'ssc' needs a square kernel, not {dense.kernel_size}")
    return SSCConv2d(dense, g, p, parity, kernel)
