"""Convolutions whose images get more zeros on one side than on the other, as TensorFlow's SAME with a stride needs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

Pads = tuple[int, int, int, int]  # zeros left, right, above, below


class PaddedConv2d(nn.Conv2d):
    """A convolution behind `pads` zeros around each map. Its parameters have the names of a plain one's."""

    def __init__(self, inputs: int, outputs: int, kernel_size: tuple[int, ...], pads: Pads, **settings: Any) -> None:
        super().__init__(inputs, outputs, kernel_size, padding=0, **settings)  # type: ignore[arg-type]
        self.pads = pads

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, n, H', W')."""
        return self._conv_forward(functional.pad(x, self.pads), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the settings of the convolution and the zeros."""
        return f"{super().extra_repr()}, pads={self.pads}"
