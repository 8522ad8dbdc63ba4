"""The layers of a network as SSC's choice of (g, p) needs them: sizes, roles, and the weights that each would keep."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
from torch import nn

from paredown.core.errors import UserError, nearest
from paredown.layers.replaceable import is_replaceable
from paredown.layers.ssc.pattern import Kernel, Parity, base_pattern, check, nonzero_counts, nonzeros, spacing

log = logging.getLogger("paredown")
SHORTCUTS = {"shortcut", "downsample"}  # names of projection shortcuts in the models here and in torchvision's

Scope = Literal["conv_fc", "conv_only"]
Role = Literal["spatial", "pointwise", "dense", "linear"]
Pair = tuple[int, int]
Triple = tuple[int, int, int]  # g, p, p_1x1


@dataclass(frozen=True)
class Policy:
    """The choice of layers that become sparse, and of their kernels. Depthwise, grouped and linear ones stay dense.

    `replace_first`: the first convolution too; `replace_shortcuts`: 1 x 1 projection shortcuts too; `pointwise_only`:
    only 1 x 1 convolutions (the paper's setting for MobileNetV2 and ShuffleNetV2, section 4.2).
    """

    replace_first: bool = False
    replace_shortcuts: bool = True
    pointwise_only: bool = False
    parity: Parity = "halves"
    kernel: Kernel = "parity"


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer; `weights` is their number, `counted` whether the scope includes them."""

    name: str
    role: Role
    weights: int
    inputs: int
    outputs: int
    size: int
    counted: bool

    @property
    def replaced(self) -> bool:
        """Whether SSC makes the layer sparse."""
        return self.role in ("spatial", "pointwise")

    def pair(self, triple: Triple) -> Pair:
        """Return the layer's (g, p) under the network's (g, p, p_1x1)."""
        g, p = self._clipped(*triple)
        return int(g), int(p)

    def kept(self, pair: Pair | None, policy: Policy) -> int:
        """Count the weights kept by the layer's (g, p); None keeps all."""
        if pair is None:
            return self.weights
        return nonzeros(self.inputs, self.outputs, self.size, *pair, policy.parity, policy.kernel)

    def kept_by_all(self, g: np.ndarray, p: np.ndarray, p_1x1: np.ndarray, policy: Policy) -> np.ndarray:
        """Count the weights kept by each of the network's (g, p, p_1x1), (n,) each."""
        if not self.replaced:
            return np.full(len(g), self.weights)
        pairs = self._clipped(g, p, p_1x1)
        return nonzero_counts(self.inputs, self.outputs, self.size, *pairs, policy.parity, policy.kernel)

    def uneven(self, g: np.ndarray, p: np.ndarray, p_1x1: np.ndarray) -> np.ndarray:
        """Find where the layer's g (for a 1 x 1 convolution, p) does not divide its width, so that some channels get
        fewer kernels than others."""
        clipped_g, clipped_p = self._clipped(g, p, p_1x1)
        return self.inputs % (clipped_p if self.role == "pointwise" else clipped_g) != 0

    def _clipped(self, g: Any, p: Any, p_1x1: Any) -> tuple[Any, Any]:
        return clip(0 * g, p_1x1, self.inputs) if self.role == "pointwise" else clip(g, p, self.inputs)


def find_layers(model: nn.Module, policy: Policy, scope: Scope) -> list[Layer]:
    """List the weight layers of `model` in module order; those with kernels of even or unequal size stay dense, and are
    logged. Raise UserError for an unknown scope, and where no layer can be replaced."""
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
    uneven = [layer.name for layer in layers if _is_uneven(model.get_submodule(layer.name))]
    if uneven and any(layer.replaced for layer in layers):
        log.info("SSC leaves %s as they are: its kernels are square and of odd size", ", ".join(uneven))
    if not any(layer.replaced for layer in layers):
        raise UserError("SSC finds no layer to replace: the network has no convolution that its policy lets it touch")
    return layers


def clip(g: Any, p: Any, in_channels: int) -> tuple[Any, Any]:
    """Limit the network's (g, p) for a layer of `in_channels`: g to M, p to the channels without a K x K kernel.

    Takes integers or numpy arrays. Unclipped, a narrow layer would have no kernels at all.
    """
    limited = np.minimum(g, in_channels)
    others = in_channels - np.where(limited > 0, in_channels // np.maximum(limited, 1), 0)
    return limited, np.minimum(p, others)


@cache
def dead_inputs(in_channels: int, out_channels: int, g: int, p: int) -> int:
    """Count the layer's input channels that no filter reads, so that whatever produces them gets no gradient.

    The shifts are consecutive, so a channel is read if and only if a kernel of the base pattern is, cyclically, fewer
    than min(out_channels, q) places before it. Raise UserError as `support` does.
    """
    check(in_channels, 3, g, p, "halves", "full")
    spread, point = base_pattern(in_channels, g, p)
    used = np.flatnonzero(spread | point)
    gaps = np.diff(np.append(used, used[0] + in_channels))
    return int(np.maximum(gaps - min(out_channels, spacing(g, p)), 0).sum())


def _role(name: str, conv: nn.Conv2d, is_first: bool, policy: Policy) -> Role:
    if conv.groups != 1 or not is_replaceable(conv) or (is_first and not policy.replace_first):
        return "dense"
    if conv.kernel_size == (1, 1):
        return "dense" if SHORTCUTS & set(name.split(".")) and not policy.replace_shortcuts else "pointwise"
    return "dense" if policy.pointwise_only or _is_uneven(conv) else "spatial"


def _is_uneven(layer: nn.Module) -> bool:
    """Tell whether `layer` is a convolution whose kernel is not square, or of even size."""
    if not isinstance(layer, nn.Conv2d) or layer.groups != 1:
        return False
    return layer.kernel_size[0] != layer.kernel_size[1] or layer.kernel_size[0] % 2 == 0
