"""ALDS, the automatic layer-wise decomposition selector (Liebenwein et al., NeurIPS 2021): every convolution and linear
layer in groups of its inputs at low rank, such that the largest relative error is least for the weights kept."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from paredown.errors import UserError
from paredown.layers._families import kernel_shape
from paredown.methods._alds_search import LayerErrors, layer_errors, least_ratio, search
from paredown.methods._post_training import PostTraining, compress
from paredown.plan import Context, Edit, Network, Target
from paredown.surgery.design_space import Branch, Design, limited, require_reach

log = logging.getLogger("paredown")
BISECTIONS, CLOSE = 14, 0.005


@dataclass(frozen=True)
class ALDS(PostTraining):
    """`ratio`: the fraction of the decomposable layers' weights that may stay; a target finds it. `legacy_error` judges
    a number of groups by the error at one rank less, as the released code does."""

    ratio: float | None = None
    legacy_error: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise UserError(f"method.ratio={self.ratio:g} is not in (0, 1): it is the fraction of weights that stay")

    def decomposition(self, target: Target | None, network: Network) -> Edit:
        """The decomposition. UserError unless there is a target or a ratio, one of them; for one out of reach."""
        shapes = {name: kernel_shape(layer) for name, layer in decomposable(network.module).items()}
        if (target is None) == (self.ratio is None):
            got = f"{target} and method.ratio={self.ratio}" if target else "none"
            raise UserError(f"alds takes its budget from one of sparsity=, speed_up= and method.ratio=, got {got}")
        if target:
            rank_1 = {name: LayerErrors(shape, {1: [1.0, 0.0]}) for name, shape in shapes.items()}
            require_reach(network, target, designs_at(rank_1, 1.0, dict.fromkeys(shapes, 1)))
        elif (least := least_ratio(shapes)) > self.ratio:  # type: ignore[operator]
            raise UserError(f"method.ratio={self.ratio:g} is out of reach: rank 1 everywhere keeps {least:.3g}")
        until = {target.quantity: target.value} if target else {"ratio": self.ratio}
        return Edit("decompose", decompose, {"until": until, "legacy_error": self.legacy_error})


def decompose(network: Network, context: Context, until: Mapping[str, Any], legacy_error: bool) -> dict[str, Any]:
    """Decompose within a budget of weights: `until` gives it as a fraction ({"ratio": r}), or a target
    ({"speed_up": 2}) for the largest that reaches it."""
    layers = {name: layer_errors(layer) for name, layer in decomposable(network.module).items()}
    (goal, value), ratio = next(iter(until.items())), 1.0
    if goal == "ratio":
        ratio, (level, designs) = value, within(layers, value, context.seed, legacy_error)
    else:
        target = Target(goal, value)  # type: ignore[arg-type]
        ratio, level, designs = _for_target(network, target, layers, context.seed, legacy_error)
    log.info("alds: ratio %.3g decomposes %d of %d layers, error %.3g", ratio, len(designs), len(layers), level)
    return {"ratio": ratio, "error": level} | compress(network, context, designs)


def decomposable(module: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """All convolutions with groups=1 and all linear layers, by name."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
    }


def within(
    layers: Mapping[str, LayerErrors], ratio: float, seed: int, legacy_error: bool = False
) -> tuple[float, dict[str, Design]]:
    """The level of error, and the designs of the layers that shrink, when `ratio` of their weights stays."""
    budget = ratio * sum(layer.weights for layer in layers.values())
    level, splits = search(layers, budget, seed, legacy_error)
    return level, designs_at(layers, level, splits)


def designs_at(layers: Mapping[str, LayerErrors], level: float, splits: Mapping[str, int]) -> dict[str, Design]:
    """In the groups of `splits` the least ranks that keep every layer at `level` or below, where it shrinks."""
    ranks = {name: layer.rank(splits[name], level) for name, layer in layers.items()}
    return {
        name: [Branch("in_group", splits[name], rank)]
        for name, rank in ranks.items()
        if layers[name].size(splits[name], rank) < layers[name].weights
    }


def _for_target(
    network: Network, target: Target, layers: Mapping[str, LayerErrors], seed: int, legacy_error: bool
) -> tuple[float, float, dict[str, Design]]:
    """The largest ratio found by bisection that reaches `target`, its error and its designs."""
    prices, limit = limited(network, target)
    low, high = least_ratio({name: layer.shape for name, layer in layers.items()}), 1.0
    ones = dict.fromkeys(layers, 1)
    best = (low, max(layer.errors[1][1] for layer in layers.values()), designs_at(layers, 1.0, ones))
    for _ in range(BISECTIONS):
        ratio = (low + high) / 2
        level, designs = within(layers, ratio, seed, legacy_error)
        if (total := prices.total(designs)) > limit:
            high = ratio
            continue
        best, low = (ratio, level, designs), ratio
        if total >= (1 - CLOSE) * limit:
            break
    return best
