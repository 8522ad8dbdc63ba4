"""ALDS, the automatic layer-wise decomposition selector (Liebenwein et al., NeurIPS 2021): every convolution and linear
layer in groups of its inputs at low rank, such that the largest relative error is least for the weights kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from paredown.core.constraints import OpenFraction
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit
from paredown.core.target import Goal, Target
from paredown.layers.factorised.forms import Branch, Design, kernel_shape
from paredown.layers.replaceable import is_replaceable
from paredown.methods.families import DecomposeTrained, compress, only_goal
from paredown.methods.low_rank.alds.search import LayerErrors, layer_errors, least_ratio, search
from paredown.surgery.rank_budget import limited, require_reach

log = logging.getLogger("paredown")
BISECTIONS, CLOSE = 14, 0.005
PROBES, NEAR = 16, 0.12  # ratios tried beside that of the bisection, and how far from it, relatively


@dataclass(frozen=True)
class ALDS(DecomposeTrained):
    """`ratio`: the fraction of the decomposable layers' weights that may stay; a target finds it. `legacy_error` judges
    a number of groups by the error at one rank less, as the released code does."""

    ratio: OpenFraction | None = None
    legacy_error: bool = False

    def decomposition(self, target: Target | None, network: Network) -> Edit:
        """Return the decomposition. Raise UserError unless there is either a target or a ratio, and where it is out of
        reach."""
        shapes = {name: kernel_shape(layer) for name, layer in decomposable(network.module).items()}
        goal = only_goal("alds", "budget", target, {"ratio": self.ratio})
        if target:
            rank_1 = {name: LayerErrors(shape, {1: [1.0, 0.0]}) for name, shape in shapes.items()}
            require_reach(network, target, designs_at(rank_1, 1.0, dict.fromkeys(shapes, 1)))
        elif (least := least_ratio(shapes)) > goal.number():
            raise UserError(f"method.{goal} is out of reach: rank 1 everywhere keeps {least:.3g}")
        return Edit("decompose", decompose, {"goal": goal, "legacy_error": self.legacy_error})


@identity("alds/decompose", version=2, kinds=["pair"])
def decompose(network: Network, context: Context, goal: Goal, legacy_error: bool) -> dict[str, Any]:
    """Decompose within a budget of weights, the ratio that `goal` gives or the largest that reaches its target. Return
    the ratio, the error and the notes of `compress`."""
    layers = {name: layer_errors(layer) for name, layer in decomposable(network.module).items()}
    if target := goal.target():
        ratio, level, designs = _for_target(network, target, layers, context.seed, legacy_error)
    else:
        ratio = goal.number()
        level, designs = within(layers, ratio, context.seed, legacy_error)
    log.info("alds: ratio %.3g decomposes %d of %d layers, error %.3g", ratio, len(designs), len(layers), level)
    return {"ratio": ratio, "error": level} | compress(network, context, designs)


def decomposable(module: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return all convolutions with groups=1 and all linear layers, by name."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if is_replaceable(layer)
        and (isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1))
    }


def within(
    layers: Mapping[str, LayerErrors], ratio: float, seed: int, legacy_error: bool = False
) -> tuple[float, dict[str, Design]]:
    """Return the level of error and the designs of the layers that shrink when `ratio` of their weights stays."""
    budget = ratio * sum(layer.weights for layer in layers.values())
    level, splits = search(layers, budget, seed, legacy_error)
    return level, designs_at(layers, level, splits)


def designs_at(layers: Mapping[str, LayerErrors], level: float, splits: Mapping[str, int]) -> dict[str, Design]:
    """Return the least ranks, in the groups of `splits`, at which the error of each layer is at most `level`, of those
    that shrink."""
    ranks = {name: layer.rank(splits[name], level) for name, layer in layers.items()}
    return {
        name: [Branch("in_group", splits[name], rank)]
        for name, rank in ranks.items()
        if layers[name].size(splits[name], rank) < layers[name].weights
    }


def _for_target(
    network: Network, target: Target, layers: Mapping[str, LayerErrors], seed: int, legacy_error: bool
) -> tuple[float, float, dict[str, Design]]:
    """Return the ratio that reaches `target` at the least error, and of these at the largest cost, with its error and
    designs: by bisection and, unless that comes close, in a scan around it, since the cost is not monotone in it."""
    prices, limit = limited(network, target)
    least, high = least_ratio({name: layer.shape for name, layer in layers.items()}), 1.0
    rank_1 = designs_at(layers, 1.0, dict.fromkeys(layers, 1))
    reached = [(max(layer.errors[1][1] for layer in layers.values()), -prices.total(rank_1), least, rank_1)]

    def total(ratio: float) -> int:
        level, designs = within(layers, ratio, seed, legacy_error)
        cost = prices.total(designs)
        if cost <= limit:
            reached.append((level, -cost, ratio, designs))
        return cost

    low = least
    for _ in range(BISECTIONS):
        ratio = (low + high) / 2
        if (cost := total(ratio)) > limit:
            high = ratio
            continue
        low = ratio
        if cost >= (1 - CLOSE) * limit:
            break
    else:
        for step in range(PROBES):
            total(min(1.0, max(least, low * (1 - NEAR + 2 * NEAR * step / (PROBES - 1)))))
    level, _, ratio, designs = min(reached, key=lambda found: found[:2])
    return ratio, level, designs
