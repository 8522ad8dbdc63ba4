"""The search for SSC's (g, p): exact counts for all pairs up to 64, then a fixed order of preference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from paredown.core.errors import UserError
from paredown.methods.sparse.ssc.layers import Layer, Pair, Policy, Triple, dead_inputs

LARGEST = 64  # of g and of p
MIXED_TOLERANCE = 0.01  # of two mixed pairs, as a fraction of all weights or MACs
RESOLUTION = 0.0005  # as such a fraction: what the rounding of a printed target leaves open


@dataclass(frozen=True)
class Budget:
    """A target: the fraction `removed` of the weights, or of the MACs with `by_macs`, to within `tolerance`; `text` is
    how the user wrote it."""

    text: str
    removed: float
    tolerance: float
    by_macs: bool


class Space:
    """The search space: every candidate (g, p, p_1x1) with the exact number of weights (given output `sizes`, of MACs)
    that it keeps."""

    def __init__(self, layers: Sequence[Layer], policy: Policy, sizes: Mapping[str, int] | None) -> None:
        self.policy = policy
        self.counted = [layer for layer in layers if layer.counted]
        self.replaced = [layer for layer in layers if layer.replaced]
        self.unit_cost = {layer.name: sizes[layer.name] if sizes else 1 for layer in layers}
        self.total = sum(layer.weights * self.unit_cost[layer.name] for layer in self.counted)
        pointwise = frozenset(layer.inputs for layer in self.replaced if layer.role == "pointwise")
        self.triples = _triples(pointwise, any(layer.role == "spatial" for layer in self.replaced))
        g, p, p_1x1 = self.triples.T
        each = [layer.kept_by_all(g, p, p_1x1, policy) * self.unit_cost[layer.name] for layer in self.counted]
        self.kept = np.sum(each, axis=0)
        self.uneven = np.any([layer.uneven(g, p, p_1x1) for layer in self.replaced], axis=0)

    def search(self, budget: Budget) -> tuple[Triple, Triple | None, dict[str, Pair]]:
        """Find the best triple that meets `budget`; return it, None, and the pair of each replaced layer. If there is
        none, return the best denser triple, the best sparser one, and pairs that mix them. Raise UserError if no
        mixture comes near enough."""
        wanted = (1 - budget.removed) * self.total
        near = np.abs(self.kept - wanted) <= budget.tolerance * self.total + 1e-6
        if near.any():
            best = self._best(near, wanted)
            return best, None, {layer.name: layer.pair(best) for layer in self.replaced}
        sides = [side for side in (self.kept > wanted, self.kept < wanted) if side.any()]
        if len(sides) < 2:
            raise self._out_of_reach(budget, wanted, sides)
        head, tail = (self._best(side, wanted) for side in sides)
        pairs, kept = self._mix(head, tail, wanted)
        if abs(kept - wanted) > MIXED_TOLERANCE * self.total:
            raise self._out_of_reach(budget, wanted, sides)
        return head, tail, pairs

    def _best(self, subset: np.ndarray, wanted: float) -> Triple:
        index = np.flatnonzero(subset)
        distance = np.abs(self.kept[index] - wanted)
        steps = np.floor(distance / (RESOLUTION * self.total) + 1e-9)
        g, p, p_1x1 = self.triples[index].T
        unequal = np.round(np.abs(np.log(p / np.maximum(g, 1))), 9)
        mixing = np.gcd(p, np.abs(g - 1)) == 1  # then the channels' residues (mod g) meet soonest over depth
        keys = (distance, p_1x1 != p, g, unequal, ~mixing, steps, self.uneven[index])
        ranked = index[np.lexsort(keys)]
        all_read = (triple for triple in map(self._triple, ranked) if not self._has_dead_inputs(triple))
        return next(all_read, self._triple(ranked[0]))

    def _has_dead_inputs(self, triple: Triple) -> bool:
        shapes = {(layer.inputs, layer.outputs, *layer.pair(triple)) for layer in self.replaced}
        return any(dead_inputs(*shape) for shape in shapes)

    def _mix(self, head: Triple, tail: Triple, wanted: float) -> tuple[dict[str, Pair], int]:
        """Give layers `tail` in place of `head`, from the output backwards, until at most `wanted` is kept; skip those
        that would overshoot."""
        pairs = {layer.name: layer.pair(head) for layer in self.replaced}
        kept = sum(
            layer.kept(pairs.get(layer.name), self.policy) * self.unit_cost[layer.name] for layer in self.counted
        )
        for layer in reversed(self.replaced):
            dense, sparse = (layer.kept(pair, self.policy) for pair in (pairs[layer.name], layer.pair(tail)))
            after = kept - (dense - sparse) * self.unit_cost[layer.name]
            if kept > wanted and after >= wanted - MIXED_TOLERANCE * self.total:
                pairs[layer.name], kept = layer.pair(tail), after
        return pairs, kept

    def _triple(self, index: int) -> Triple:
        g, p, p_1x1 = self.triples[index]
        return int(g), int(p), int(p_1x1)

    def _out_of_reach(self, budget: Budget, wanted: float, sides: Iterable[np.ndarray]) -> UserError:
        nearest = [int(np.where(side, np.abs(self.kept - wanted), np.inf).argmin()) for side in sides]
        known = " and ".join(self._reached(index, budget) for index in nearest)
        return UserError(f"{budget.text} is out of SSC's reach on this network: the nearest in reach is {known}")

    def _reached(self, index: int, budget: Budget) -> str:
        kept = int(self.kept[index])
        value = f"speed_up={self.total / kept:.4g}" if budget.by_macs else f"sparsity={1 - kept / self.total:.4f}"
        return "{} (method.g={} method.p={} method.p_1x1={})".format(value, *self._triple(index))


@cache  # the same for all targets of a sweep
def _triples(widths: frozenset[int], spatial: bool) -> np.ndarray:
    """List the candidates, (n, 3), for 1 x 1 convolutions of these `widths` and, if any is `spatial`, K x K ones. At
    g=1 every channel has a K x K kernel, so that p > 1 would only change the 1 x 1 convolutions: it is not tried."""
    triples = np.array(
        [
            (g, p, p_1x1)
            for g in (range(1, LARGEST + 1) if spatial else (0,))
            for p in range(1, 2 if g == 1 else LARGEST + 1)
            for p_1x1 in _pointwise_spacings(p, widths)
        ]
    )
    triples.setflags(write=False)
    return triples


def _pointwise_spacings(p: int, widths: Iterable[int]) -> set[int]:
    """Return `p`, and the power of two nearest to it (by ratio) if that divides all `widths` of 1 x 1 convolutions."""
    power = 1 << int(np.rint(np.log2(p)))
    return {p, power} if widths and all(width % power == 0 for width in widths) else {p}
