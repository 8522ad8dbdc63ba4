"""The search for SSC's (g, p): exact counts over all pairs up to 64, then a fixed order of preference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from paredown.errors import UserError
from paredown.layers._ssc_layers import Layer, Pair, Policy, Triple
from paredown.layers._ssc_pattern import dead_inputs

LARGEST = 64  # of g and of p
COARSE = 0.01  # how far from the target a mixture of two pairs may end, as a fraction of all weights or MACs


@dataclass(frozen=True)
class Goal:
    """`removed` is the fraction of the weights, or with `by_macs` of the MACs, to within `tolerance`."""

    text: str
    removed: float
    tolerance: float
    by_macs: bool


class Space:
    """Every (g, p, p_1x1) tried, with the exact number of weights (or MACs, given output `sizes`) it keeps."""

    def __init__(self, layers: Sequence[Layer], policy: Policy, sizes: Mapping[str, int] | None) -> None:
        self.policy = policy
        self.counted = [layer for layer in layers if layer.counted]
        self.replaced = [layer for layer in layers if layer.replaced]
        self.price = {layer.name: sizes[layer.name] if sizes else 1 for layer in layers}
        self.total = sum(layer.weights * self.price[layer.name] for layer in self.counted)
        self.triples = _triples(self.replaced)
        g, p, p_1x1 = self.triples.T
        each = [layer.kept_by_all(g, p, p_1x1, policy) * self.price[layer.name] for layer in self.counted]
        self.kept = np.sum(each, axis=0)
        self.ragged = np.any([layer.ragged(g, p, p_1x1) for layer in self.replaced], axis=0)

    def search(self, goal: Goal) -> tuple[Triple, Triple | None, dict[str, Pair]]:
        """The triple for `goal`, None, and each replaced layer's pair; where none alone meets it, the best denser and
        the best sparser triple, and pairs that mix them. Raises UserError where that fails too."""
        budget = (1 - goal.removed) * self.total
        near = np.abs(self.kept - budget) <= goal.tolerance * self.total + 1e-6
        if near.any():
            best = self._best(near, budget)
            return best, None, {layer.name: layer.pair(best) for layer in self.replaced}
        sides = [side for side in (self.kept > budget, self.kept < budget) if side.any()]
        if len(sides) < 2:
            raise self._out_of_reach(goal, budget, sides)
        head, tail = (self._best(side, budget) for side in sides)
        pairs, kept = self._mix(head, tail, budget)
        if abs(kept - budget) > COARSE * self.total:
            raise self._out_of_reach(goal, budget, sides)
        return head, tail, pairs

    def _best(self, subset: np.ndarray, budget: float) -> Triple:
        index = np.flatnonzero(subset)
        g, p, p_1x1 = self.triples[index].T
        unequal = np.round(np.abs(np.log(p / np.maximum(g, 1))), 9)
        mixing = np.gcd(p, np.abs(g - 1)) == 1  # then the channels' residues (mod g) meet soonest over depth
        keys = (p_1x1 != p, g, unequal, ~mixing, np.abs(self.kept[index] - budget), self.ragged[index])
        ranked = index[np.lexsort(keys)]
        whole = (triple for triple in map(self._triple, ranked) if not self._leaves_inputs(triple))
        return next(whole, self._triple(ranked[0]))

    def _leaves_inputs(self, triple: Triple) -> bool:
        shapes = {(layer.inputs, layer.outputs, *layer.pair(triple)) for layer in self.replaced}
        return any(dead_inputs(*shape) for shape in shapes)

    def _mix(self, head: Triple, tail: Triple, budget: float) -> tuple[dict[str, Pair], int]:
        """`tail` for the layers from the output's end on until `budget` holds, save those that would overshoot it."""
        pairs = {layer.name: layer.pair(head) for layer in self.replaced}
        kept = sum(layer.kept(pairs.get(layer.name), self.policy) * self.price[layer.name] for layer in self.counted)
        for layer in reversed(self.replaced):
            dense, sparse = (layer.kept(pair, self.policy) for pair in (pairs[layer.name], layer.pair(tail)))
            after = kept - (dense - sparse) * self.price[layer.name]
            if kept > budget and after >= budget - COARSE * self.total:
                pairs[layer.name], kept = layer.pair(tail), after
        return pairs, kept

    def _triple(self, index: int) -> Triple:
        g, p, p_1x1 = self.triples[index]
        return int(g), int(p), int(p_1x1)

    def _out_of_reach(self, goal: Goal, budget: float, sides: Iterable[np.ndarray]) -> UserError:
        nearest = [int(np.where(side, np.abs(self.kept - budget), np.inf).argmin()) for side in sides]
        known = " and ".join(self._reached(index, goal) for index in nearest)
        return UserError(f"{goal.text} is out of SSC's reach on this network: the nearest in reach is {known}")

    def _reached(self, index: int, goal: Goal) -> str:
        kept = int(self.kept[index])
        value = f"speed_up={self.total / kept:.4g}" if goal.by_macs else f"sparsity={1 - kept / self.total:.4f}"
        return "{} (method.g={} method.p={} method.p_1x1={})".format(value, *self._triple(index))


def _triples(replaced: Sequence[Layer]) -> np.ndarray:
    """(tried, 3). With g=1 no channel is left over, so there p > 1 would thin nothing but the 1 x 1 convolutions."""
    widths = {layer.inputs for layer in replaced if layer.role == "pointwise"}
    spatial = any(layer.role == "spatial" for layer in replaced)
    return np.array(
        [
            (g, p, p_1x1)
            for g in (range(1, LARGEST + 1) if spatial else (0,))
            for p in range(1, 2 if g == 1 else LARGEST + 1)
            for p_1x1 in _pointwise_spacings(p, widths)
        ]
    )


def _pointwise_spacings(p: int, widths: Iterable[int]) -> set[int]:
    """`p`, and the power of two nearest to it (by ratio) if that divides all `widths` of 1 x 1 convolutions."""
    power = 1 << int(np.rint(np.log2(p)))
    return {p, power} if widths and all(width % power == 0 for width in widths) else {p}
