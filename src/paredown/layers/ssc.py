"""Structured sparse convolution (Verma et al., WACV 2023): the kind `ssc`, its pattern and the choice of (g, p)."""

from __future__ import annotations

from torch import Tensor, nn

from paredown.errors import UserError
from paredown.layers._ssc_choice import Choice, apply_pair, choose
from paredown.layers._ssc_layers import Policy, Scope
from paredown.layers._ssc_packed import LEAST, packed_convolution, packed_groups
from paredown.layers._ssc_pattern import Kernel, Parity, clip, dead_inputs, nonzeros, support
from paredown.layers.masked import MaskedConv2d

__all__ = [
    "LEAST",
    "Choice",
    "Kernel",
    "Parity",
    "Policy",
    "SSCConv2d",
    "Scope",
    "apply_pair",
    "build",
    "choose",
    "clip",
    "dead_inputs",
    "nonzeros",
    "packed_groups",
    "support",
]


class SSCConv2d(MaskedConv2d):
    """A convolution whose filters are the shifted SSC pattern of (g, p); see `support` for the arguments.

    The mask follows from the arguments, so it is not in the state dict: a dense layer's weights load as they are.
    """

    def __init__(self, dense: nn.Conv2d, g: int, p: int, parity: Parity, kernel: Kernel) -> None:
        pattern = (dense.in_channels, dense.out_channels, dense.kernel_size[0], g, p, parity, kernel)
        super().__init__(dense, support(*pattern), persistent=False)
        self.pattern = pattern
        self.groups_run = 1

    def pack(self) -> None:
        """Compute from here on in packed form, where `packed_groups` finds one. The state stays as it is."""
        self.groups_run = packed_groups(self, *self.pattern[3:5])

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, H, W) to (B, N, H', W')."""
        if self.groups_run == 1:
            return super().forward(x)
        pointwise = self.pattern[2] > 1 and self.pattern[4] > 0
        return packed_convolution(self, self.mask, self.groups_run, pointwise, x)

    def active_weights(self) -> int:
        """The closed form of the count, which needs no look at the mask."""
        return nonzeros(*self.pattern)

    def extra_repr(self) -> str:
        """The convolution's own settings and the pattern's."""
        *_, g, p, parity, kernel = self.pattern
        return f"{super().extra_repr()}, g={g}, p={p}, parity={parity}, kernel={kernel}"


def build(dense: nn.Module, g: int, p: int, parity: Parity = "halves", kernel: Kernel = "parity") -> SSCConv2d:
    """`dense` with all weights outside `support` removed; stride, padding, dilation and bias stay.

    Raises UserError for anything but an ungrouped Conv2d with a square kernel, and where `support` does.
    """
    if not isinstance(dense, nn.Conv2d) or dense.groups != 1:
        groups = f" with groups={dense.groups}" if isinstance(dense, nn.Conv2d) else ""
        raise UserError(f"kind 'ssc' replaces a Conv2d with groups=1, not a {type(dense).__name__}{groups}")
    if dense.kernel_size[0] != dense.kernel_size[1]:
        raise UserError(f"kind 'ssc' needs a square kernel, not {dense.kernel_size}")
    return SSCConv2d(dense, g, p, parity, kernel)
