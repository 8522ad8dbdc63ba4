"""What SSC sees of a network: its weight layers, which of them become sparse, and how many weights each would keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from paredown.errors import UserError, nearest
from paredown.layers._ssc_pattern import Kernel, Parity, clip, count, nonzeros

SHORTCUTS = {"shortcut", "downsample"}  # how the models here and torchvision's name a projection shortcut

Scope = Literal["conv_fc", "conv_only"]
Role = Literal["spatial", "pointwise", "dense", "linear"]
Pair = tuple[int, int]
Triple = tuple[int, int, int]  # g, p, p_1x1


@dataclass(frozen=True)
class Policy:
    """Which layers become sparse, and with which kernels. Depthwise, grouped and linear layers always stay dense.

    `replace_first`: the first convolution too; `replace_shortcuts`: 1 x 1 projection shortcuts too; `pointwise_only`:
    nothing but 1 x 1 convolutions (the paper's setting for MobileNetV2 and ShuffleNetV2, section 4.2).
    """

    replace_first: bool = False
    replace_shortcuts: bool = True
    pointwise_only: bool = False
    parity: Parity = "halves"
    kernel: Kernel = "parity"


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer of `weights` weights; `counted` says whether the scope takes it in."""

    name: str
    role: Role
    weights: int
    inputs: int
    outputs: int
    size: int
    counted: bool

    @property
    def replaced(self) -> bool:
        """Whether SSC makes it sparse."""
        return self.role in ("spatial", "pointwise")

    def pair(self, triple: Triple) -> Pair:
        """Its own (g, p) under the network's (g, p, p_1x1)."""
        g, p = self._clipped(*triple)
        return int(g), int(p)

    def kept(self, pair: Pair | None, policy: Policy) -> int:
        """The weights that its own (g, p) leaves; all for None."""
        if pair is None:
            return self.weights
        return nonzeros(self.inputs, self.outputs, self.size, *pair, policy.parity, policy.kernel)

    def kept_by_all(self, g: np.ndarray, p: np.ndarray, p_1x1: np.ndarray, policy: Policy) -> np.ndarray:
        """The weights that each of the network's (g, p, p_1x1) leaves."""
        if not self.replaced:
            return np.full(len(g), self.weights)
        own = self._clipped(g, p, p_1x1)
        return count(self.inputs, self.outputs, self.size, *own, policy.parity, policy.kernel)

    def ragged(self, g: np.ndarray, p: np.ndarray, p_1x1: np.ndarray) -> np.ndarray:
        """Where its g (for a 1 x 1 convolution its p) does not divide its width, so that some channels get fewer."""
        own_g, own_p = self._clipped(g, p, p_1x1)
        return self.inputs % (own_p if self.role == "pointwise" else own_g) != 0

    def _clipped(self, g: Any, p: Any, p_1x1: Any) -> tuple[Any, Any]:
        return clip(0 * g, p_1x1, self.inputs) if self.role == "pointwise" else clip(g, p, self.inputs)


def find_layers(model: nn.Module, policy: Policy, scope: Scope) -> list[Layer]:
    """The weight layers of `model` in module order. Raises UserError for an unknown scope, for kernels that SSC does
    not know, and where nothing is left to replace."""
    if scope not in get_args(Scope):
        raise UserError(f"scope={scope!r}: {nearest(scope, get_args(Scope))}")
    layers: list[Layer] = []
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            sizes = (module.weight.numel(), module.in_features, module.out_features, 1)
            layers.append(Layer(name, "linear", *sizes, counted=scope == "conv_fc"))
        elif isinstance(module, nn.Conv2d):
            sizes = (module.weight.numel(), module.in_channels, module.out_channels, module.kernel_size[0])
            layers.append(Layer(name, _role(name, module, module is first, policy), *sizes, counted=True))
    if not any(layer.replaced for layer in layers):
        raise UserError("SSC finds no layer to replace: the network has no convolution that its policy lets it touch")
    return layers


def _role(name: str, conv: nn.Conv2d, is_first: bool, policy: Policy) -> Role:
    if conv.groups != 1 or (is_first and not policy.replace_first):
        return "dense"
    if conv.kernel_size == (1, 1):
        return "dense" if SHORTCUTS & set(name.split(".")) and not policy.replace_shortcuts else "pointwise"
    if policy.pointwise_only:
        return "dense"
    if conv.kernel_size[0] != conv.kernel_size[1] or conv.kernel_size[0] % 2 == 0:
        raise UserError(f"SSC needs square kernels of odd size: layer {name!r} has {conv.kernel_size}")
    return "spatial"
