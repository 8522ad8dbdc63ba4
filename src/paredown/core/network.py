"""A live network beside the data that rebuilds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass
class Network:
    """A live network and the data that rebuilds it.

    `architecture` is the model's config (`_target_` below `paredown.models`, and its arguments), `blueprint` maps the
    name of each rewritten layer to its kind and arguments, `input_shape` is (channels, height, width); `pretrained`
    says that the weights are ones that the user brought.
    """

    module: nn.Module
    architecture: dict[str, Any]
    input_shape: tuple[int, int, int]
    blueprint: dict[str, dict[str, Any]] = field(default_factory=dict)
    pretrained: bool = False
