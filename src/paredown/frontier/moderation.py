"""Variances of few values each, drawn towards a common one as far as they agree (Smyth 2004, as limma does)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats

FLOOR = 1e-5  # of the median variance: a variance of 0, of equal values, is taken for this much (limma)
BRACKET = 1e-6, 1e6  # degrees of freedom of a prior that are told from none and from infinitely many
FEWEST = 3  # variances, of which one more can be told
SIGNIFICANT = 0.01
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moderated:
    """The `variances` of samples and their degrees of freedom; the common variance `prior`, and the degrees of freedom
    `weight` that it counts for: infinite where the variances differ no more than chance makes them."""

    variances: Floats
    freedoms: Floats
    prior: float
    weight: float


def moderate(variances: Sequence[float], freedoms: Sequence[int]) -> Moderated:
    """Return sample variances (n,) of `freedoms` degrees of freedom each as means of themselves and of the common one,
    weighted by degrees of freedom (Smyth 2004, eq. 5). A variance too large for what the others were drawn from
    (`_outliers`) stays as it is, and out of the common one. A sample of one value, of 0 degrees, which may scatter as
    any, gets that common to all.

    A variance is never of more degrees than all samples together have. Raise ValueError where none has any.
    """
    found, freedom = np.asarray(variances, dtype=np.float64), np.asarray(freedoms, dtype=np.float64)
    if not freedom.sum():
        raise ValueError("no sample has two values: nothing says how much they vary")
    apart = _outliers(found, freedom)
    alike = _moderated(found[~apart], freedom[~apart])
    every = _moderated(found, freedom)
    values, degrees = np.where(freedom > 0, found, every.variances), np.where(freedom > 0, freedom, every.freedoms)
    values[~apart & (freedom > 0)] = alike.variances[freedom[~apart] > 0]
    degrees[~apart & (freedom > 0)] = alike.freedoms[freedom[~apart] > 0]
    return Moderated(values, degrees, alike.prior, alike.weight)


def _outliers(variances: Floats, freedoms: Floats) -> NDArray[np.bool_]:
    """Return which variances are too large to have been drawn as the others were: the largest, as long as an F test
    against the prior of all smaller ones, corrected for their number (Bonferroni), is significant.

    One such variance would leave the prior next to no weight for all (Phipson et al. 2016).
    """
    apart = np.zeros(len(variances), dtype=bool)
    for place in np.argsort(np.where(freedoms > 0, -variances, np.inf), kind="stable"):
        others = ~apart & (freedoms > 0)
        others[place] = False
        if others.sum() < FEWEST:
            break
        common = _moderated(variances[others], freedoms[others])
        if not common.prior:
            break
        within = float(freedoms[others].sum())
        p = stats.f.sf(variances[place] / common.prior, freedoms[place], min(common.weight, within))
        if p * (others.sum() + 1) >= SIGNIFICANT:
            break
        apart[place] = True
    return apart


def _moderated(found: Floats, freedom: Floats) -> Moderated:
    total = float(freedom.sum())
    pooled = float(np.where(freedom > 0, found * freedom, 0).sum()) / total
    weight, prior = _prior(found[freedom > 0], freedom[freedom > 0], pooled)
    if np.isinf(weight):
        return Moderated(np.full_like(found, prior), np.full_like(found, total), prior, weight)
    own = np.where(freedom > 0, found, 0.0)
    mixed = (weight * prior + freedom * own) / (weight + freedom)
    return Moderated(mixed, np.minimum(weight + freedom, total), prior, weight)


def _prior(variances: Floats, freedoms: Floats, pooled: float) -> tuple[float, float]:
    """Return degrees of freedom and variance of the scaled inverse chi-squared distribution that has the first two
    moments of log `variances` (Smyth 2004, section 6.2): infinite and `pooled` where sampling alone explains them."""
    middle = float(np.median(variances)) or pooled
    if len(variances) < 2 or not middle:
        return np.inf, pooled
    logs = np.log(np.maximum(variances, FLOOR * middle)) - special.digamma(freedoms / 2) + np.log(freedoms / 2)
    excess = float(np.var(logs, ddof=1) - special.polygamma(1, freedoms / 2).mean())
    if excess <= special.polygamma(1, BRACKET[1]):
        return np.inf, pooled
    half = float(optimize.brentq(lambda d: special.polygamma(1, d) - excess, *BRACKET))
    return 2 * half, float(np.exp(logs.mean() + special.digamma(half) - np.log(half)))
