"""Layers around one convolution, which is all that they cost."""

from __future__ import annotations

import math

from torch import nn

from paredown.core.compressed import CompressedLayer
from paredown.layers.geometry import output_size


class AroundConv2d(CompressedLayer):
    """A layer that calls the convolution `conv`, or uses its weights, once."""

    conv: nn.Conv2d

    def active_weights(self) -> int:
        """Count the weights of the convolution."""
        return self.conv.weight.numel()

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Count the convolution's multiply-adds."""
        return self.active_weights() * math.prod(output_size(self.conv, *input_shape[1:]))
