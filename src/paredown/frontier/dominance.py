"""Pareto fronts of two objectives: who is on it, how much it dominates, where it bends."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Maximize = Sequence[bool]


def pareto(points: ArrayLike, maximize: Maximize) -> NDArray[np.bool_]:
    """Which of `points` (n, 2) no other point dominates: none is as good in both columns and better in one.
    `maximize` says of each column whether more is better. Equal points are on the front together; a point with NaN is
    not on it and dominates none. O(n log n). Raises ValueError for another shape."""
    losses = _losses(points, maximize)
    mask = np.zeros(len(losses), dtype=bool)
    (rows,) = np.nonzero(~np.isnan(losses).any(axis=1))
    rows = rows[np.lexsort((losses[rows, 1], losses[rows, 0]))]
    first, second = losses[rows].T
    start = np.searchsorted(first, first)  # where the points begin that share a point's first objective
    best_before = np.minimum.accumulate(second)[start - 1]  # of those better in the first objective
    mask[rows] = (second == second[start]) & ((start == 0) | (second < best_before))
    return mask


def hypervolume(points: ArrayLike, reference: ArrayLike, maximize: Maximize) -> float:
    """The area between `reference` (2,) and the front of `points` (n, 2): Zitzler and Thiele (1998), two objectives.
    A point that is not better than the reference in both adds nothing, nor does one with NaN."""
    losses, (limit,) = _losses(points, maximize), _losses(np.reshape(reference, (1, -1)), maximize)
    inside = losses[(losses < limit).all(axis=1)]
    front = inside[pareto(inside, (False, False))]
    first, second = front[np.argsort(front[:, 0], kind="stable")].T
    return float(np.sum(np.diff(first, append=limit[0]) * (limit[1] - second)))


def knee(points: ArrayLike, maximize: Maximize) -> int | None:
    """The row of the front point that lies furthest beyond the line through the front's two ends, both axes scaled to
    [0, 1] (Das 1999): where more cost stops paying. The first of equals; None where no point lies beyond it."""
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
    """`points` with the sign changed where more is better, so that less always is."""
    array = np.asarray(points, dtype=np.float64)
    if array.size == 0:
        array = array.reshape(0, 2)
    if array.ndim != 2 or array.shape[1] != 2 or len(maximize) != 2:
        raise ValueError(f"points of shape {array.shape} for {len(maximize)} objectives: (n, 2) and 2 are needed")
    return np.where(np.asarray(maximize, dtype=bool), -array, array)
