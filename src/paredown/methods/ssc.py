"""Structured sparse convolutions (Verma et al., "Pushing the Efficiency Limit Using Structured Sparse Convolutions",
WACV 2023): filters with a fixed, shifted pattern of few weights, sparse from the first step on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn

from paredown import blueprint
from paredown.cost import count
from paredown.errors import UserError
from paredown.layers.masked import MaskedConv2d
from paredown.layers.ssc import LEAST, Choice, Kernel, Parity, Policy, Scope, apply_pair, choose, packed_groups
from paredown.plan import Context, Edit, Fit, Hooks, Method, Network, Recipe, Stage, Target
from paredown.training.packed import Packed

log = logging.getLogger("paredown")
Init = Literal["dense", "sparse_fan_out"]
PAYS, PAYS_IN_HALF = 128, 256  # input channels from which the packed form was measured faster, by precision


@dataclass(frozen=True)
class SSC(Method):
    """The knobs of SSC; `conf/method/ssc.yaml` says what each does. A target finds `g`, `p` and `p_1x1` itself."""

    g: int | None = None
    p: int | None = None
    p_1x1: int | None = None
    parity: Parity = "halves"
    kernel: Kernel = "parity"
    scope: Scope = "conv_fc"
    init: Init = "dense"
    replace_first: bool = False
    replace_shortcuts: bool = True
    pointwise_only: bool = False
    packed: Literal["auto", True, False] = "auto"

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Swap the convolutions, then train. Raises UserError for no (g, p), two ways to say it, or none in reach."""
        choice = self._choose(target, network)
        _tell(choice)
        layers = {name: list(pair) for name, pair in choice.layers.items()}
        settings = {"layers": layers, "parity": self.parity, "kernel": self.kernel, "init": self.init}
        return [Edit("ssc", swap, settings), Fit("train", recipe, self._hooks(choice, network, recipe))]

    def _hooks(self, choice: Choice, network: Network, recipe: Recipe) -> tuple[Hooks, ...]:
        """Trains in packed form the layers that gain by it: by a rule, not a timing, so that two runs give one result.
        What was measured are 3 x 3 kernels. UserError where all should be and none can."""
        if self.packed is False:
            return ()
        convs = {name: cast(nn.Conv2d, network.module.get_submodule(name)) for name in choice.layers}
        fitting = [name for name, pair in choice.layers.items() if packed_groups(convs[name], *pair) > 1]
        if self.packed == "auto":
            least = PAYS if recipe.precision == "32" else PAYS_IN_HALF
            fitting = [name for name in fitting if convs[name].in_channels >= least and convs[name].kernel_size[0] > 1]
        elif not fitting:
            pair = f"g={choice.g}, p={choice.p}"
            raise UserError(f"method.packed=true: no layer splits into groups of {LEAST} channels under {pair}")
        return (Packed(tuple(fitting), on_gpu=self.packed is True),) if fitting else ()

    def _choose(self, target: Target | None, network: Network) -> Choice:
        policy = Policy(self.replace_first, self.replace_shortcuts, self.pointwise_only, self.parity, self.kernel)
        own = {name: getattr(self, name) for name in ("g", "p", "p_1x1") if getattr(self, name) is not None}
        if target and own:
            raise UserError(f"{target} finds g and p itself: leave out {', '.join(f'method.{name}' for name in own)}")
        if target and target.quantity == "sparsity":
            return choose(network.module, target.value, self.scope, policy=policy)
        if target:
            layers = count(network.module, network.input_shape).layers
            sizes = {layer.name: torch.Size(layer.output_shape[1:]).numel() for layer in layers}
            return choose(network.module, scope=self.scope, speed_up=target.value, sizes=sizes, policy=policy)
        if self.pointwise_only and self.g:
            raise UserError(f"method.pointwise_only leaves K x K kernels as they are: leave out method.g={self.g}")
        if self.p is None or (self.g is None and not self.pointwise_only):
            raise UserError("method ssc needs sparsity=, speed_up=, or its own method.g and method.p")
        return apply_pair(network.module, self.g or 0, self.p, self.p_1x1, self.scope, policy=policy)


def swap(
    network: Network, context: Context, layers: Mapping[str, Sequence[int]], parity: Parity, kernel: Kernel, init: Init
) -> None:
    """Make each of `layers` (name: (g, p)) an SSC layer that starts from its dense weights; `init="sparse_fan_out"`
    enlarges each filter's by 1 / sqrt(its density), which keeps the variance of what it puts out."""
    for name, (g, p) in layers.items():
        blueprint.rewrite(network, name, "ssc", g=g, p=p, parity=parity, kernel=kernel)
        layer = network.module.get_submodule(name)
        if init == "sparse_fan_out" and isinstance(layer, MaskedConv2d):
            density = layer.mask.flatten(1).double().mean(dim=1).clamp(min=1e-12)
            with torch.no_grad():
                layer.weight.mul_(density.rsqrt().to(layer.weight)[:, None, None, None])


def _tell(choice: Choice) -> None:
    tail = " (layers at the output: g={}, p={}, p_1x1={})".format(*choice.tail) if choice.tail else ""
    other = "conv_only" if choice.scope == "conv_fc" else "conv_fc"
    counted = f"{choice.sparsity:.3%} in scope {choice.scope}, {choice.sparsity_other_scope:.3%} in {other}"
    log.info("ssc: g=%d, p=%d, p_1x1=%d%s: sparsity %s", choice.g, choice.p, choice.p_1x1, tail, counted)
    if choice.dead_inputs:
        dead, every = (sum(numbers) for numbers in zip(*choice.dead_inputs.values(), strict=True))
        log.warning(
            "ssc: %d input channels (of %d in %d layers) are read by no filter, so what makes them is not trained; "
            "g and p_1x1 that divide the widths avoid it",
            dead,
            every,
            len(choice.dead_inputs),
        )
