"""What several seeds allow to say: means with t intervals, and which of two settings is better for certain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from paredown.frontier.dominance import Maximize, hypervolume

CONFIDENCE = 0.95
ON_FRONT, DOMINATED, UNDECIDED = "on the front", "dominated", "undecided"
BLOCK = 2_000_000  # pairs of settings compared at once
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """The mean over `seeds` values and Student's t interval for it; `low` and `high` are NaN for one seed."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def half_width(self) -> float:
        """Half the interval's length, NaN for one seed."""
        return (self.high - self.low) / 2


def estimate(values: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """Mean and t interval of `values` (n,), one a seed. NaN among them makes all of it NaN."""
    array = np.asarray(values, dtype=np.float64)
    mean = float(array.mean()) if len(array) else float("nan")
    half = float(_half_width(_variance_of_mean(array), np.float64(len(array) - 1), confidence))
    return Estimate(mean, mean - half, mean + half, len(array))


def states(
    samples: Sequence[ArrayLike], maximize: Maximize, exact: Sequence[bool], confidence: float = CONFIDENCE
) -> list[str]:
    """For each setting ON_FRONT, DOMINATED or UNDECIDED. `samples` holds its (seeds, 2) values of the two objectives.

    Two settings are compared in each objective by Welch's t interval of the difference of their means. A setting is
    dominated where another is certainly as good in both and better in one; on the front where each other one is
    certainly worse in one, or known to be equal in both; else undecided. One seed has no spread and decides nothing,
    except in an objective marked `exact` (a counted cost, taken to be the same for every seed). Pairs are not corrected
    for their number. O(n^2).
    """
    arrays = [np.asarray(sample, dtype=np.float64).reshape(-1, 2) for sample in samples]
    if not arrays:
        return []
    sign = np.where(np.asarray(maximize, dtype=bool), 1.0, -1.0)
    means = np.array([sign * array.mean(axis=0) for array in arrays])
    counts = np.array([len(array) for array in arrays])
    spread = np.array([[_variance_of_mean(column) for column in array.T] for array in arrays])
    spread[(counts == 1)[:, None] & np.asarray(exact, dtype=bool)] = 0.0
    rows = max(1, BLOCK // len(arrays))
    found: list[str] = []
    for start in range(0, len(arrays), rows):
        found += _block(means, spread, counts, np.arange(start, min(start + rows, len(arrays))), confidence)
    return found


def difference(one: ArrayLike, other: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """The mean of `one` minus that of `other` with Welch's t interval; `seeds` is the smaller number of the two."""
    arrays = [np.asarray(values, dtype=np.float64) for values in (one, other)]
    variances = [_variance_of_mean(array) for array in arrays]
    counts = [np.float64(len(array)) for array in arrays]
    half = float(_half_width(variances[0] + variances[1], _welch(*variances, *counts), confidence))
    mean = float(arrays[0].mean() - arrays[1].mean())
    return Estimate(mean, mean - half, mean + half, min(len(array) for array in arrays))


def hypervolume_estimate(by_seed: Sequence[ArrayLike], reference: ArrayLike, maximize: Maximize) -> Estimate:
    """The mean hypervolume of the fronts of single seeds, `by_seed` (settings, 2) each, with its t interval. Every seed
    must hold the same settings."""
    return estimate([hypervolume(points, reference, maximize) for points in by_seed])


def _block(
    means: Floats, spread: Floats, counts: NDArray[np.int_], rows: NDArray[np.int_], confidence: float
) -> list[str]:
    """The states of the settings `rows`, each compared with all."""
    lead = means[None, :, :] - means[rows, None, :]  # (rows, n, 2): how much better the other is
    seeds = counts.astype(np.float64)[:, None]
    variance = spread[None] + spread[rows, None]
    half = _half_width(variance, _welch(spread[None], spread[rows, None], seeds[None], seeds[rows, None]), confidence)
    half = np.where(np.isnan(half), np.inf, half)  # one seed: anything may be
    beaten = (lead - half >= 0).all(axis=2) & (lead - half > 0).any(axis=2)
    harmless = (lead + half < 0).any(axis=2) | ((lead == 0) & (half == 0)).all(axis=2)
    harmless[np.arange(len(rows)), rows] = True
    names = np.where(np.any(beaten, axis=1), DOMINATED, UNDECIDED)
    return [str(name) for name in np.where(harmless.all(axis=1), ON_FRONT, names)]


def _variance_of_mean(values: Floats) -> float:
    """The squared standard error, NaN for fewer than two values."""
    return float(np.var(values, ddof=1)) / len(values) if len(values) > 1 else float("nan")


def _welch(one: ArrayLike, other: ArrayLike, seeds: ArrayLike, other_seeds: ArrayLike) -> Floats:
    """Welch and Satterthwaite's degrees of freedom of a difference of two means with these squared standard errors."""
    first, second, n, m = (np.asarray(value, dtype=np.float64) for value in (one, other, seeds, other_seeds))
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = _share(first, n) + _share(second, m)
        return (first + second) ** 2 / weights


def _share(variance: Floats, seeds: Floats) -> Floats:
    return np.where(variance == 0, 0.0, variance**2 / (seeds - 1))


def _half_width(variance: ArrayLike, freedom: ArrayLike, confidence: float) -> Floats:
    """Half of a t interval; 0 where the variance is 0, NaN where it is unknown."""
    variance = np.asarray(variance, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        factor = stats.t.ppf((1 + confidence) / 2, freedom)
        return np.where(variance == 0, 0.0, factor * np.sqrt(variance))
