"""Statistics over seeds: means with t intervals, and significant dominance between settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from paredown.frontier.dominance import Maximize, hypervolume, level, pareto, same

CONFIDENCE = 0.95
ON_FRONT, DOMINATED, UNDECIDED = "on the front", "dominated", "undecided"
BLOCK = 500_000  # pairs of settings compared at once, to bound the memory
ROUNDING = 1e-9  # of a bound that an interval may reach
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """The mean over `seeds` values and its Student's t interval, `low` to `high`, both NaN for one seed."""

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def half_width(self) -> float:
        """Half the width of the interval, NaN for one seed."""
        return (self.high - self.low) / 2


def mean(values: ArrayLike) -> float:
    """Return the mean of `values` (n,): the first one where all are the `same`, so that rounding adds nothing; NaN of
    none."""
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        return float("nan")
    return float(array[0]) if _all_same(array) else float(array.mean())


def estimate(values: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """Compute mean and t interval of `values` (n,), one per seed. A NaN among them makes all of it NaN."""
    array = np.asarray(values, dtype=np.float64)
    middle = mean(array)
    half = float(_half_width(_variance_of_mean(array), np.float64(len(array) - 1), confidence))
    return Estimate(middle, middle - half, middle + half, len(array))


def states(
    samples: Sequence[ArrayLike], maximize: Maximize, exact: Sequence[bool], confidence: float = CONFIDENCE
) -> list[str]:
    """Decide for each setting between ON_FRONT, DOMINATED and UNDECIDED by its values (seeds, 2) of the two objectives.

    Two settings are compared in each objective by Welch's t interval of the difference of their means. A setting is
    dominated if another is significantly no worse in both objectives and better in one; on the front if every other one
    is significantly worse in one, or equal in both without variance; otherwise undecided. One seed has no variance and
    decides nothing, except in an objective marked `exact` (a counted cost, taken to be equal for every seed). Values
    that are the `same` are equal and have no variance. No correction for multiple comparisons. O(n^2).
    """
    arrays = [np.asarray(sample, dtype=np.float64).reshape(-1, 2) for sample in samples]
    if not arrays:
        return []
    sign = np.where(np.asarray(maximize, dtype=bool), 1.0, -1.0)
    means = np.array([sign * [mean(column) for column in array.T] for array in arrays])
    means = np.column_stack([level(column) for column in means.T])
    counts = np.array([len(array) for array in arrays])
    spread = np.array([[_variance_of_mean(column) for column in array.T] for array in arrays])
    spread[(counts == 1)[:, None] & np.asarray(exact, dtype=bool)] = 0.0
    every = _Settings(means, spread, counts)
    (front,) = np.nonzero(pareto(means, (True, True)))
    beaten = np.concatenate([rows.beaten for rows in every.blocks(np.arange(len(arrays)), front, confidence)])
    (left,) = np.nonzero(~beaten)  # seldom many: whatever the front beats is decided
    found = np.where(beaten, DOMINATED, UNDECIDED).astype(object)
    for rows in every.blocks(left, np.arange(len(arrays)), confidence):
        found[rows.places] = np.where(rows.harmless, ON_FRONT, np.where(rows.beaten, DOMINATED, UNDECIDED))
    return [str(name) for name in found]


def difference(one: ArrayLike, other: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """Compute the mean of `one` minus that of `other` with Welch's t interval; `seeds` is the smaller of the two."""
    arrays = [np.asarray(values, dtype=np.float64) for values in (one, other)]
    variances = [_variance_of_mean(array) for array in arrays]
    counts = [np.float64(len(array)) for array in arrays]
    half = float(_half_width(variances[0] + variances[1], _welch(*variances, *counts), confidence))
    means = [mean(array) for array in arrays]
    lead = 0.0 if same(*means) else means[0] - means[1]
    return Estimate(lead, lead - half, lead + half, min(len(array) for array in arrays))


def hypervolume_estimate(by_seed: Sequence[ArrayLike], reference: ArrayLike, maximize: Maximize) -> Estimate:
    """Compute the mean hypervolume of the fronts of single seeds, each (settings, 2), with its t interval. Every seed
    must have the same settings."""
    return estimate([hypervolume(points, reference, maximize) for points in by_seed])


@dataclass(frozen=True)
class _Rows:
    """The settings at `places`, compared with others: which of them one beats, and which none harms."""

    places: NDArray[np.int_]
    beaten: NDArray[np.bool_]
    harmless: NDArray[np.bool_]


@dataclass(frozen=True)
class _Settings:
    """Means (n, 2), of which more is better, their squared standard errors (n, 2), and the numbers of seeds (n,)."""

    means: Floats
    spread: Floats
    counts: NDArray[np.int_]

    def blocks(self, rows: NDArray[np.int_], others: NDArray[np.int_], confidence: float) -> Iterator[_Rows]:
        """Yield the settings `rows` compared with `others`, as many at once as BLOCK allows."""
        size = max(1, BLOCK // max(1, len(others)))
        for start in range(0, len(rows), size):
            yield self._compared(rows[start : start + size], others, confidence)

    def _compared(self, rows: NDArray[np.int_], others: NDArray[np.int_], confidence: float) -> _Rows:
        """Compare by bounds of the intervals, and by the intervals themselves where these leave a pair open."""
        lead = self.means[others][None] - self.means[rows][:, None]  # (rows, others, 2): of the other setting
        low, high = self._bounds(rows, others, confidence)
        beaten, harmless = _beaten(lead, high), _harmless(lead, high)
        open_ = np.nonzero((beaten != _beaten(lead, low)) | (harmless != _harmless(lead, low)))
        if len(open_[0]):
            one, other = others[open_[1]], rows[open_[0]]
            half = self._half_widths(one, other, confidence)
            beaten[open_], harmless[open_] = _beaten(lead[open_], half), _harmless(lead[open_], half)
        harmless |= rows[:, None] == others[None]
        return _Rows(rows, np.asarray(beaten.any(axis=1)), np.asarray(harmless.all(axis=1)))

    def _bounds(self, rows: NDArray[np.int_], others: NDArray[np.int_], confidence: float) -> tuple[Floats, Floats]:
        """Return half widths that are at most and at least those of the differences, infinite where one has no
        variance: Welch's degrees of freedom are between those of the smaller sample and those of both together."""
        freedoms = np.arange(2 * int(self.counts.max()))
        with np.errstate(invalid="ignore"):
            factor = np.nan_to_num(stats.t.ppf((1 + confidence) / 2, freedoms), nan=np.inf)  # by the degrees of freedom
        one, other = self.counts[rows][:, None], self.counts[others][None]
        error = np.sqrt(self.spread[rows][:, None] + self.spread[others][None])
        found = []
        for freedom, margin in ((one + other - 2, 1 - ROUNDING), (np.minimum(one, other) - 1, 1 + ROUNDING)):
            with np.errstate(invalid="ignore"):
                half = np.where(error == 0, 0.0, margin * factor[freedom][..., None] * error)
            found.append(np.where(np.isnan(half), np.inf, half))
        return found[0], found[1]

    def _half_widths(self, one: NDArray[np.int_], other: NDArray[np.int_], confidence: float) -> Floats:
        """Return the half widths (pairs, 2) of Welch's intervals, infinite where one has no variance."""
        first, second = self.spread[one], self.spread[other]
        seeds = [self.counts[which].astype(np.float64)[:, None] for which in (one, other)]
        half = _half_width(first + second, _welch(first, second, *seeds), confidence)
        return np.where(np.isnan(half), np.inf, half)


def _beaten(lead: Floats, half: Floats) -> NDArray[np.bool_]:
    return np.asarray((lead - half >= 0).all(axis=-1) & (lead - half > 0).any(axis=-1))


def _harmless(lead: Floats, half: Floats) -> NDArray[np.bool_]:
    return np.asarray((lead + half < 0).any(axis=-1) | ((lead == 0) & (half == 0)).all(axis=-1))


def _variance_of_mean(values: Floats) -> float:
    """Compute the squared standard error: NaN for fewer than two values, 0 where all are the `same`."""
    if len(values) < 2:
        return float("nan")
    return 0.0 if _all_same(values) else float(np.var(values, ddof=1)) / len(values)


def _all_same(values: Floats) -> bool:
    return bool(same(values.min(), values.max()))


def _welch(one: ArrayLike, other: ArrayLike, seeds: ArrayLike, other_seeds: ArrayLike) -> Floats:
    """Compute Welch-Satterthwaite degrees of freedom from the squared standard errors of two means."""
    first, second, n, m = (np.asarray(value, dtype=np.float64) for value in (one, other, seeds, other_seeds))
    with np.errstate(divide="ignore", invalid="ignore"):
        weights = _share(first, n) + _share(second, m)
        return (first + second) ** 2 / weights


def _share(variance: Floats, seeds: Floats) -> Floats:
    return np.where(variance == 0, 0.0, variance**2 / (seeds - 1))


def _half_width(variance: ArrayLike, freedom: ArrayLike, confidence: float) -> Floats:
    """Compute the half width of a t interval: 0 where the variance is 0, NaN where it is NaN."""
    variance = np.asarray(variance, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        factor = stats.t.ppf((1 + confidence) / 2, freedom)
        return np.where(variance == 0, 0.0, factor * np.sqrt(variance))
