"""Variances of few values each, drawn towards a common one as far as they agree (Smyth 2004, as limma does)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

FLOOR = 1e-5  # of the median variance: a variance of 0, of equal values, is taken for this much (limma)
BRACKET = 1e-6, 1e6  # degrees of freedom of a prior that are told from none and from infinitely many
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
    weighted by degrees of freedom (Smyth 2004, eq. 5). A sample of one value, of 0 degrees, gets the common one.

    A variance is never of more degrees than all samples together have. Raise ValueError where none has any.
    """
    found, freedom = np.asarray(variances, dtype=np.float64), np.asarray(freedoms, dtype=np.float64)
    total = float(freedom.sum())
    if not total:
        raise ValueError("no sample has two values: nothing says how much they vary")
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
