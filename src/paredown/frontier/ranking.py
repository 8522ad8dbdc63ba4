"""Ranking of settings by their means: pairwise tests with moderated variances, corrected by Holm, and letter groups."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from paredown.frontier.moderation import moderate
from paredown.frontier.seeds import CONFIDENCE, mean

Pair = frozenset[str]
Error = tuple[float, float]  # squared, of a mean; and its degrees of freedom


@dataclass(frozen=True)
class Ranking:
    """Settings in the order of their means, best first, with the adjusted p-value of each pair and, for each setting,
    the letters of the groups that it belongs to: two settings that share no letter are told apart."""

    names: tuple[str, ...]
    means: Mapping[str, float]
    half_width: Mapping[str, float]  # of the confidence interval of a mean, from the setting's moderated variance
    errors: Mapping[str, Error]
    adjusted: Mapping[Pair, float]
    letters: Mapping[str, str]
    confidence: float = CONFIDENCE

    def apart(self, one: str, other: str) -> bool:
        """Return whether the means of two settings differ significantly."""
        return self.adjusted[frozenset((one, other))] < 1 - self.confidence

    def p_value(self, one: str, other: str, slack: float = 0.0) -> float:
        """Return the two-sided p-value, not adjusted, of the means of `one`, plus `slack`, and `other` being equal."""
        return _p_value(self.means[one] + slack - self.means[other], self.errors[one], self.errors[other])


def rank(samples: Mapping[str, ArrayLike], confidence: float = CONFIDENCE) -> Ranking:
    """Rank the settings of `samples` (accuracies by name, one per seed), the highest mean first.

    Each pair is compared by a t test whose variances are moderated (`moderation.moderate`): those of two or three seeds
    are too rough to test by, and one variance for all would find differences among settings that scatter much, as those
    of low accuracy may. Where the variances differ no more than by chance they are one, but for a trend, and the test
    is R's pairwise.t.test. All p-values are adjusted by Holm's method. Raise ValueError where no setting has two seeds
    or an accuracy is NaN.
    """
    values = {name: np.asarray(sample, dtype=np.float64) for name, sample in samples.items()}
    if wrong := [name for name, array in values.items() if np.isnan(array).any()]:
        raise ValueError(f"an accuracy of {wrong[0]} is not a number")
    if all(len(array) < 2 for array in values.values()):
        raise ValueError("no setting has two seeds: nothing says how much they vary")
    means = {name: mean(array) for name, array in values.items()}
    names = sorted(values, key=lambda name: -means[name])
    errors = dict(zip(names, _errors([values[name] for name in names]), strict=True))
    within = (1 + confidence) / 2
    half = {name: float(stats.t.ppf(within, freedom) * np.sqrt(error)) for name, (error, freedom) in errors.items()}
    pairs = list(itertools.combinations(names, 2))
    raw = [_p_value(means[a] - means[b], errors[a], errors[b]) for a, b in pairs]
    adjusted = {frozenset(pair): p for pair, p in zip(pairs, holm(raw), strict=True)}
    alike = [pair for pair in pairs if adjusted[frozenset(pair)] >= 1 - confidence]
    return Ranking(tuple(names), means, half, errors, adjusted, letters(names, alike), confidence)


def _errors(samples: Sequence[NDArray[np.float64]]) -> list[Error]:
    """Return the squared standard error of each sample's mean with its degrees of freedom."""
    variances = [float(np.var(array, ddof=1)) if len(array) > 1 else 0.0 for array in samples]
    found = moderate(variances, [len(array) - 1 for array in samples], [float(array.mean()) for array in samples])
    each = zip(found.variances, found.freedoms, samples, strict=True)
    return [(float(variance) / len(array), float(freedom)) for variance, freedom, array in each]


def _p_value(lead: float, one: Error, other: Error) -> float:
    """Return the two-sided p-value of a difference of means, of the fewer degrees of freedom of the two, which is
    cautious; without any variance every difference is certain."""
    error = float(np.sqrt(one[0] + other[0]))
    if error == 0:
        return float(lead == 0)
    return float(2 * stats.t.sf(abs(lead) / error, min(one[1], other[1])))


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values adjusted by Holm's step-down method (Holm 1979), in the order given."""
    order = sorted(range(len(values)), key=values.__getitem__)
    adjusted, highest = [0.0] * len(values), 0.0
    for place, index in enumerate(order):
        highest = max(highest, min(1.0, (len(values) - place) * values[index]))
        adjusted[index] = highest
    return adjusted


def letters(names: Sequence[str], alike: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return a compact letter display: the groups of `names`, in whose order letters are given, such that two names
    share a letter if and only if their pair is among `alike` (Piepho 2004). Groups are the maximal cliques."""
    neighbours = {name: {name} for name in names}
    for one, other in alike:
        neighbours[one].add(other)
        neighbours[other].add(one)
    cliques = _maximal_cliques(set(), set(names), set(), neighbours)
    place = {name: number for number, name in enumerate(names)}
    ordered = sorted(sorted(map(place.__getitem__, clique)) for clique in cliques)
    return {
        name: "".join(_letter(number) for number, clique in enumerate(ordered) if place[name] in clique)
        for name in names
    }


def _maximal_cliques(
    chosen: set[str], open_: set[str], closed: set[str], neighbours: Mapping[str, set[str]]
) -> list[set[str]]:
    """Return the maximal sets of names that are all neighbours (Bron and Kerbosch 1973, with a pivot)."""
    if not open_ and not closed:
        return [chosen]
    pivot = max(sorted(open_ | closed), key=lambda name: len(neighbours[name] & open_))
    found: list[set[str]] = []
    for name in sorted(open_ - (neighbours[pivot] - {pivot})):
        near = neighbours[name] - {name}
        found += _maximal_cliques(chosen | {name}, open_ & near, closed & near, neighbours)
        open_, closed = open_ - {name}, closed | {name}
    return found


def _letter(number: int) -> str:
    """Return a, b, ... z, then a1, b1, ..."""
    turn, place = divmod(number, 26)
    return chr(ord("a") + place) + (str(turn) if turn else "")
