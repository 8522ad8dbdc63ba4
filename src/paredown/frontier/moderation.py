"""Variances of few values each, drawn towards a common one as far as they agree (Smyth 2004, as limma does), which
may depend on the level of the values (Law et al. 2014, limma-trend)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

FLOOR = 1e-5  # of the median variance: a variance of 0, of equal values, is taken for this much (limma)
BRACKET = 1e-6, 1e6  # degrees of freedom of a prior that are told from none and from infinitely many
TREND_FROM = 6  # samples that a line is fitted to
LINE = 2  # its parameters
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moderated:
    """The `variances` of samples and their degrees of freedom; the common variance `prior` at the level of each, and
    the degrees of freedom `weight` that it counts for: infinite where the variances differ no more than chance makes
    them."""

    variances: Floats
    freedoms: Floats
    prior: Floats
    weight: float


def moderate(variances: Sequence[float], freedoms: Sequence[int], levels: Sequence[float] | None = None) -> Moderated:
    """Return sample variances (n,) of `freedoms` degrees of freedom each as means of themselves and of the common one,
    weighted by degrees of freedom (Smyth 2004, eq. 5). A sample of one value, of 0 degrees, gets the common one.

    The log of the common variance is a line of `levels`, the samples' means, where there are TREND_FROM of them and
    they differ. A variance is never of more degrees than all samples together have. Raise ValueError where none has
    any.
    """
    found, freedom = np.asarray(variances, dtype=np.float64), np.asarray(freedoms, dtype=np.float64)
    known = freedom > 0
    if not known.any():
        raise ValueError("no sample has two values: nothing says how much they vary")
    level = np.zeros_like(found) if levels is None else np.asarray(levels, dtype=np.float64)
    level = np.clip(level, level[known].min(), level[known].max())
    has_trend = known.sum() >= TREND_FROM and bool(np.ptp(level))
    prior, weight = _prior(found, freedom, level, has_trend)
    total = float(freedom.sum()) - LINE * has_trend
    if np.isinf(weight):
        return Moderated(prior, np.full_like(found, total), prior, weight)
    own = np.where(known, found, 0.0)
    mixed = (weight * prior + freedom * own) / (weight + freedom)
    return Moderated(mixed, np.minimum(weight + freedom, total), prior, weight)


def _prior(variances: Floats, freedoms: Floats, levels: Floats, has_trend: bool) -> tuple[Floats, float]:
    """Return variances and degrees of freedom of the scaled inverse chi-squared distributions that have the first two
    moments of log `variances` (Smyth 2004, section 6.2), about a line of `levels` if it `has_trend`. The degrees are
    infinite where sampling alone explains the variances, which then are the pooled one, or the line."""
    known = freedoms > 0
    own, freedom = variances[known], freedoms[known]
    pooled = np.full_like(variances, (own * freedom).sum() / freedom.sum())
    middle = float(np.median(own)) or float(pooled[0])
    if len(own) < 2 or not middle:
        return pooled, np.inf
    logs = np.log(np.maximum(own, FLOOR * middle)) - special.digamma(freedom / 2) + np.log(freedom / 2)
    line = np.polynomial.Polynomial.fit(levels[known], logs, deg=1 if has_trend else 0)
    left = len(own) - (LINE if has_trend else 1)
    excess = float(((logs - line(levels[known])) ** 2).sum() / left - special.polygamma(1, freedom / 2).mean())
    if excess <= special.polygamma(1, BRACKET[1]):
        return (np.exp(line(levels)) if has_trend else pooled), np.inf
    half = float(optimize.brentq(lambda d: special.polygamma(1, d) - excess, *BRACKET))
    return np.exp(line(levels) + special.digamma(half) - np.log(half)), 2 * half
