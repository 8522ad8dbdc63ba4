"""Structured sparse convolutions (Verma et al., "Pushing the Efficiency Limit Using Structured Sparse Convolutions",
WACV 2023): filters with a fixed, shifted sparsity pattern, sparse from the first training step on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.constraints import Count, NonNegativeInt
from paredown.core.errors import UserError
from paredown.core.hooks import Context, Hooks
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Method, Stage
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.cost import count
from paredown.layers.masked import MaskedConv2d
from paredown.layers.ssc.packed import MIN_GROUP_CHANNELS, packed_groups
from paredown.layers.ssc.pattern import Kernel, Parity
from paredown.methods.sparse.ssc.choice import Choice, apply_pair, choose
from paredown.methods.sparse.ssc.layers import Policy, Scope
from paredown.training.hooks.packed import Packed

log = logging.getLogger("paredown")
Init = Literal["dense", "sparse_fan_out"]
MIN_CHANNELS, MIN_CHANNELS_HALF = 128, 256  # input channels from which the packed form was measured faster


@dataclass(frozen=True)
class SSC(Method):
    """SSC's hyperparameters, documented in `conf/method/ssc.yaml`. A target determines `g`, `p` and `p_1x1`."""

    g: NonNegativeInt | None = None
    p: NonNegativeInt | None = None
    p_1x1: Count | None = None
    parity: Parity = "halves"
    kernel: Kernel = "parity"
    scope: Scope = "conv_fc"
    init: Init = "dense"
    replace_first: bool = False
    replace_shortcuts: bool = True
    pointwise_only: bool = False
    packed: Literal["auto", True, False] = "auto"

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Replace the convolutions, then train. Raise UserError without a target or (g, p), with both, and for a target
        out of reach."""
        choice = self._choose(target, network)
        _log_choice(choice)
        layers = {name: list(pair) for name, pair in choice.layers.items()}
        settings = {"layers": layers, "parity": self.parity, "kernel": self.kernel, "init": self.init}
        return [Edit("ssc", swap, settings), Fit("train", recipe, self._hooks(choice, network, recipe))]

    def _hooks(self, choice: Choice, network: Network, recipe: Recipe) -> tuple[Hooks, ...]:
        """Return the hook that trains layers in packed form. A rule chooses them, not a timing, so that runs are
        reproducible: kernels of 3 x 3 and larger with enough channels. Raise UserError if all should and none can."""
        if self.packed is False:
            return ()
        convs = {name: cast(nn.Conv2d, network.module.get_submodule(name)) for name in choice.layers}
        fitting = [name for name, pair in choice.layers.items() if packed_groups(convs[name], *pair) > 1]
        if self.packed == "auto":
            least = MIN_CHANNELS if recipe.precision == "32" else MIN_CHANNELS_HALF
            fitting = [name for name in fitting if convs[name].in_channels >= least and convs[name].kernel_size[0] > 1]
        elif not fitting:
            pair = f"g={choice.g}, p={choice.p}"
            raise UserError(
                f"method.packed=true: no layer splits into groups of {MIN_GROUP_CHANNELS} channels under {pair}"
            )
        return (Packed(tuple(fitting), on_gpu=self.packed is True),) if fitting else ()

    def _choose(self, target: Target | None, network: Network) -> Choice:
        policy = Policy(self.replace_first, self.replace_shortcuts, self.pointwise_only, self.parity, self.kernel)
        given = [name for name in ("g", "p", "p_1x1") if getattr(self, name) is not None]
        if target and given:
            raise UserError(f"{target} finds g and p itself: leave out {', '.join(f'method.{name}' for name in given)}")
        if target and target.quantity == "sparsity":
            return choose(network.module, target.value, self.scope, policy=policy)
        if target:
            sizes = _positions(network)
            return choose(network.module, scope=self.scope, speed_up=target.value, sizes=sizes, policy=policy)
        if self.pointwise_only and self.g:
            raise UserError(f"method.pointwise_only leaves K x K kernels as they are: leave out method.g={self.g}")
        if self.p is None or (self.g is None and not self.pointwise_only):
            raise UserError("method ssc needs sparsity=, speed_up=, or its own method.g and method.p")
        return apply_pair(network.module, self.g or 0, self.p, self.p_1x1, self.scope, policy=policy)


@identity("ssc/swap", kinds=["ssc"])
def swap(
    network: Network, context: Context, layers: Mapping[str, Sequence[int]], parity: Parity, kernel: Kernel, init: Init
) -> None:
    """Replace each of `layers` (name: (g, p)) by an SSC layer with its dense weights. `init="sparse_fan_out"` scales
    each filter by 1 / sqrt(its density), which preserves the variance of its output."""
    for name, (g, p) in layers.items():
        blueprint.rewrite(network, name, "ssc", g=g, p=p, parity=parity, kernel=kernel)
        layer = network.module.get_submodule(name)
        if init == "sparse_fan_out" and isinstance(layer, MaskedConv2d):
            density = layer.mask.flatten(1).double().mean(dim=1).clamp(min=1e-12)
            with torch.no_grad():
                layer.weight.mul_(density.rsqrt().to(layer.weight)[:, None, None, None])


def _positions(network: Network) -> dict[str, int]:
    """Return how often a pass of one image uses each weight of the convolutions and linear layers, by name: at every
    output position of every call."""
    macs = {layer.name: layer.macs for layer in count(network.module, network.input_shape).layers}
    layers = {name: layer for name, layer in network.module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    return {name: macs[name] // layer.weight.numel() for name, layer in layers.items()}


def _log_choice(choice: Choice) -> None:
    tail = " (layers at the output: g={}, p={}, p_1x1={})".format(*choice.tail) if choice.tail else ""
    other = "conv_only" if choice.scope == "conv_fc" else "conv_fc"
    counted = f"{choice.sparsity:.3%} in scope {choice.scope}, {choice.sparsity_other_scope:.3%} in {other}"
    log.info("ssc: g=%d, p=%d, p_1x1=%d%s: sparsity %s", choice.g, choice.p, choice.p_1x1, tail, counted)
    if choice.dead_inputs:
        dead, every = (sum(numbers) for numbers in zip(*choice.dead_inputs.values(), strict=True))
        log.warning(
            "ssc: %d input channels (of %d in %d layers) are read by no filter, so what computes them is not trained; "
            "g and p_1x1 that divide the widths avoid it",
            dead,
            every,
            len(choice.dead_inputs),
        )
