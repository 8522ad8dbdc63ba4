"""The search of ALDS (Liebenwein et al., NeurIPS 2021): groups and ranks of all layers that keep the largest relative
error of a layer least under a budget of weights."""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from paredown.core.progress import each
from paredown.layers.factorised.forms import Shape, group_counts, kernel_shape, matrices

SEEDS, ROUNDS = 15, 4
STARTS = (3, 5, 7, 9)  # groups of the first seeds; the others draw theirs
OFFSETS = (0.5, 0.3, 0.1, 0.0)  # added before a rank is rounded down, tried in turn until the budget holds
Splits = dict[str, int]  # groups by layer


@dataclass(frozen=True)
class LayerErrors:
    """The relative errors of a layer of weight `shape` (n, c, kh, kw), by the number of groups of its inputs: at rank
    0, 1, ... full, never rising."""

    shape: Shape
    errors: Mapping[int, list[float]]

    @property
    def weights(self) -> int:
        """The number of weights of the dense layer."""
        return math.prod(self.shape)

    def per_rank(self, groups: int) -> int:
        """Return the number of weights of each rank."""
        return groups * self.shape[0] + math.prod(self.shape[1:])

    def size(self, groups: int, rank: int) -> int:
        """Return the number of weights of the layer, which stays dense where that is no more."""
        return min(self.weights, rank * self.per_rank(groups))

    def rank(self, groups: int, level: float) -> int:
        """Return the least rank, at least 1, whose error is at most `level`."""
        return max(1, bisect_left(self.errors[groups], -level, key=lambda error: -error))

    def nearest(self, groups: int) -> int:
        """Return the possible number of groups nearest to `groups`, the larger of two."""
        return min(self.errors, key=lambda there: (abs(there - groups), -there))

    def split(self, groups: int, size: int, offset: float, legacy: bool) -> int:
        """Return the number of groups of least error at about `size` weights, `groups` where none has a rank; `legacy`
        judges by the error at one rank less."""
        choices = []
        for there, errors in self.errors.items():
            rank = min(len(errors) - 1, math.floor(size / self.per_rank(there) + offset))
            if rank >= 1:
                choices.append((errors[rank - legacy], there))
        return min(choices)[1] if choices else groups


@torch.no_grad()
def layer_errors(layer: nn.Conv2d | nn.Linear) -> LayerErrors:
    """Return the errors of `layer`: the largest of the groups' first dropped singular values over the largest of
    all."""
    shape = kernel_shape(layer)
    weight = layer.weight.detach().double().reshape(shape)
    spectra = {
        groups: torch.linalg.svdvals(matrices(weight, "in_group", groups)).amax(0)
        for groups in group_counts(shape, "in_group")
    }
    largest = spectra[1][0].clamp(min=torch.finfo(torch.float64).tiny)
    return LayerErrors(shape, {groups: [*(s / largest).tolist(), 0.0] for groups, s in spectra.items()})


def least_ratio(layers: Mapping[str, Shape]) -> float:
    """Return the fraction of the weights of `layers` that rank 1 in one group everywhere keeps."""
    table = [LayerErrors(shape, {}) for shape in layers.values()]
    return sum(layer.size(1, 1) for layer in table) / sum(layer.weights for layer in table)


def search(layers: Mapping[str, LayerErrors], budget: float, seed: int, legacy: bool = False) -> tuple[float, Splits]:
    """Return the least level of error found, and the groups of each layer with which every layer stays below it within
    `budget` weights in all; ranks follow by `LayerErrors.rank`. The budget must hold at rank 1 in one group."""
    draws = random.Random(seed)
    found: list[tuple[float, Splits]] = []
    for index in each(range(SEEDS), "search", "starts"):
        if index < len(STARTS):
            splits = {name: layer.nearest(STARTS[index]) for name, layer in layers.items()}
        else:
            splits = {name: draws.choice(list(layer.errors)) for name, layer in layers.items()}
        found += _alternate(layers, _feasible(layers, splits, budget), budget, legacy)
    return min(found, key=lambda pair: pair[0])


def level_within(layers: Mapping[str, LayerErrors], splits: Splits, budget: float) -> float | None:
    """Return the least level of error at which the layers, each of the least rank within it, have at most `budget`
    weights; None where rank 1 has more."""
    levels = sorted({error for name, groups in splits.items() for error in layers[name].errors[groups]})
    index = bisect_left(levels, -budget, key=lambda level: -sum(_sizes(layers, splits, level).values()))
    return levels[index] if index < len(levels) else None


def _sizes(layers: Mapping[str, LayerErrors], splits: Splits, level: float) -> dict[str, int]:
    return {name: layers[name].size(groups, layers[name].rank(groups, level)) for name, groups in splits.items()}


def _feasible(layers: Mapping[str, LayerErrors], splits: Splits, budget: float) -> Splits:
    """Reduce `splits` by halves until the budget holds at rank 1."""
    while sum(layers[name].size(groups, 1) for name, groups in splits.items()) > budget:
        splits = {name: layers[name].nearest(max(1, groups // 2)) for name, groups in splits.items()}
    return splits


def _alternate(
    layers: Mapping[str, LayerErrors], splits: Splits, budget: float, legacy: bool
) -> Iterator[tuple[float, Splits]]:
    """Yield, in turns, the level of error of the splits and the splits of least error at the resulting sizes."""
    for _ in range(ROUNDS):
        level = level_within(layers, splits, budget)
        assert level is not None  # `_feasible`, and below an offset of 0 keeps every size or less
        yield level, splits
        sizes = _sizes(layers, splits, level)
        for offset in OFFSETS:
            tried = {name: layers[name].split(groups, sizes[name], offset, legacy) for name, groups in splits.items()}
            if level_within(layers, tried, budget) is not None:
                break
        splits = tried
