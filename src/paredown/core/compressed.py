"""The base class of layers that torch does not have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import nn


class CompressedLayer(nn.Module, ABC):
    """A layer that torch does not have: one that replaced another, or an architecture's own.

    The kind of a layer that replaced another is a line of the table `core.kinds.KINDS`. Its module has
    `build(dense, **arguments)`, which makes it from the layer `dense`, trained or from scratch, or returns a plain
    torch layer; the arguments are plain JSON data.
    """

    @abstractmethod
    def active_weights(self) -> int:
        """Return how many weights (biases not counted) the layer really has."""

    @abstractmethod
    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Return the multiply-adds for one input, (channels, height, width) or (features,), without the batch."""

    @abstractmethod
    def deployed(self) -> nn.Module:
        """Return plain torch modules that compute the same thing."""

    @property
    def full_rank(self) -> int | None:
        """The highest rank that the layer could have; None for a layer without a rank."""
        return None

    def budget(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return the blueprint entry of an untrained layer of the same cost, given this layer's `entry`. With `weights`
        it is one whose mask leaves so many of its weights."""
        return dict(entry)
