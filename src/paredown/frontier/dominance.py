"""Pareto fronts of two objectives: membership, hypervolume and knee."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Maximize = Sequence[bool]
# Two values this near are equal: a counted cost, or a mean, differs by the order in which floats were summed.
RELATIVE, ABSOLUTE = 1e-9, 1e-12


def same(one: ArrayLike, other: ArrayLike) -> NDArray[np.bool_]:
    """Return where `one` equals `other` but for rounding (to RELATIVE of its size); NaN equals nothing."""
    return np.isclose(one, other, rtol=RELATIVE, atol=ABSOLUTE)


def level(values: ArrayLike) -> NDArray[np.float64]:
    """Return `values` (n,) with those that are the `same` replaced by the smallest of them."""
    array = np.asarray(values, dtype=np.float64)
    order = np.argsort(array, kind="stable")
    ranked = array[order]
    starts = np.r_[True, ~same(ranked[1:], ranked[:-1])][: len(ranked)]
    levelled = np.empty_like(array)
    levelled[order] = ranked[np.maximum.accumulate(np.where(starts, np.arange(len(ranked)), 0))]
    return levelled


def pareto(points: ArrayLike, maximize: Maximize) -> NDArray[np.bool_]:
    """Return a mask (n,) of the non-dominated `points` (n, 2): no other point is as good in both columns and better in
    one. `maximize` holds the direction of each column. Equal points (`same`) are on the front together; a point with
    NaN is neither on it nor dominates another. O(n log n). Raise ValueError for another shape."""
    losses = _losses(points, maximize)
    losses = np.column_stack([level(column) for column in losses.T])
    mask = np.zeros(len(losses), dtype=bool)
    (rows,) = np.nonzero(~np.isnan(losses).any(axis=1))
    rows = rows[np.lexsort((losses[rows, 1], losses[rows, 0]))]
    first, second = losses[rows].T
    start = np.searchsorted(first, first)  # first of the points with an equal first objective
    best_before = np.minimum.accumulate(second)[start - 1]  # among points better in the first objective
    mask[rows] = (second == second[start]) & ((start == 0) | (second < best_before))
    return mask


def hypervolume(points: ArrayLike, reference: ArrayLike, maximize: Maximize) -> float:
    """Compute the area between `reference` (2,) and the front of `points` (n, 2): Zitzler and Thiele (1998) for two
    objectives. A point that is not better than the reference in both, or has a NaN, adds nothing."""
    losses, (limit,) = _losses(points, maximize), _losses(np.reshape(reference, (1, -1)), maximize)
    inside = losses[(losses < limit).all(axis=1)]
    front = inside[pareto(inside, (False, False))]
    first, second = front[np.argsort(front[:, 0], kind="stable")].T
    return float(np.sum(np.diff(first, append=limit[0]) * (limit[1] - second)))


def knee(points: ArrayLike, maximize: Maximize) -> int | None:
    """Return the row of the front point furthest beyond the line through the two ends of the front, both axes scaled to
    [0, 1] (Das 1999), the first of equals. None if no point is beyond the line."""
    losses = _losses(points, maximize)
    (rows,) = np.nonzero(pareto(points, maximize))
    if len(rows) == 0:
        return None
    low, high = losses[rows].min(axis=0), losses[rows].max(axis=0)
    if not (np.isfinite(high - low).all() and (high > low).all()):
        return None
    beyond = 1 - ((losses[rows] - low) / (high - low)).sum(axis=1)
    best = int(np.argmax(beyond))
    return int(rows[best]) if beyond[best] > 1e-9 else None


def _losses(points: ArrayLike, maximize: Maximize) -> NDArray[np.float64]:
    """Return `points` as objectives to minimise. Raise ValueError for another shape than (n, 2)."""
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        array = array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2 or len(maximize) != 2:
        raise ValueError(f"points of shape {array.shape} for {len(maximize)} objectives: (n, 2) and 2 are needed")
    return np.where(np.asarray(maximize, dtype=bool), -array, array)
