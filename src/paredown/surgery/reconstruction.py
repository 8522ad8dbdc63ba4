"""Maps of low rank that reproduce responses, and the ranks that responses suggest (Zhang et al. 2016, "Accelerating
Very Deep Convolutional Networks for Classification and Detection", arXiv 1505.06798)."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from paredown.surgery.low_rank import RankCost

Map = tuple[Tensor, Tensor]  # weight (n, p) and bias (n,) of x -> weight x + bias
SCHEDULE = (0.1,) * 30 + (1.0,) * 20  # the penalty's weight by round, as in the code published with He et al. 2017
CUTOFF = 1e-6  # of the covariance's eigenvalues, against the largest: below, inputs count as constant
ROUNDING = 1e-12  # of a sum of squares: a variance below counts as none


class Regression:
    """Least squares on `inputs` (N, p), in float64, by maps of bounded rank (reduced rank regression)."""

    def __init__(self, inputs: Tensor) -> None:
        self.mean = inputs.mean(0)
        self.centred = inputs - self.mean
        self.gram = self.centred.T @ self.centred
        self.inverse = torch.linalg.pinv(self.gram, rtol=CUTOFF, hermitian=True)

    def fit(self, targets: Tensor, rank: int | None = None) -> Map:
        """The map to `targets` (N, n) of the least squared error among those of `rank` at most (None: any). Where the
        targets are the inputs it is their PCA."""
        weight = (self.inverse @ (self.centred.T @ targets)).T
        if rank is not None and rank < len(weight):
            axes = torch.linalg.eigh(weight @ self.gram @ weight.T).eigenvectors[:, -rank:]
            weight = axes @ (axes.T @ weight)
        return weight, targets.mean(0) - weight @ self.mean


def linear(inputs: Tensor, targets: Tensor, rank: int | None = None) -> Map:
    """The map of `rank` at most with the least ||targets - (M inputs + t)||^2; samples (N, p) and (N, n)."""
    return Regression(inputs).fit(targets, rank)


def nonlinear(inputs: Tensor, targets: Tensor, rank: int | None = None, schedule: Sequence[float] = SCHEDULE) -> Map:
    """A map of `rank` at most with a small ||relu(targets) - relu(M inputs + t)||^2: from the linear one on, in turns
    with `auxiliary` (their section 3.2), the best of all rounds."""
    wanted, regression = targets.relu(), Regression(inputs)
    best = found = regression.fit(targets, rank)
    fitted = apply(found, inputs)
    least = squared_error(fitted.relu(), wanted)
    for weight in schedule:
        found = regression.fit(auxiliary(fitted, wanted, weight), rank)
        fitted = apply(found, inputs)
        error = squared_error(fitted.relu(), wanted)
        best, least = (found, error) if error < least else (best, least)
    return best


def auxiliary(fitted: Tensor, wanted: Tensor, weight: float) -> Tensor:
    """Elementwise the z with the least (wanted - relu(z))^2 + weight (z - fitted)^2, for wanted >= 0."""
    below = fitted.clamp(max=0)
    above = ((weight * fitted + wanted) / (weight + 1)).clamp(min=0)
    cost_below = wanted.square() + weight * (below - fitted).square()
    cost_above = (above - wanted).square() + weight * (above - fitted).square()
    return torch.where(cost_below < cost_above, below, above)


def solve(inputs: Tensor, targets: Tensor, rank: int | None, relu: bool) -> tuple[Map, float]:
    """The `linear` map or, where a `relu` follows, the `nonlinear` one, and its squared error behind that, relative to
    the variance of what is wanted there (0 where that is constant)."""
    found = nonlinear(inputs, targets, rank) if relu else linear(inputs, targets, rank)
    fitted = apply(found, inputs)
    if relu:
        fitted, targets = fitted.relu(), targets.relu()
    variance, size = squared_error(targets, targets.mean(0)), float(targets.square().sum())
    return found, squared_error(fitted, targets) / variance if variance > ROUNDING * size else 0.0


def apply(found: Map, inputs: Tensor) -> Tensor:
    """`found` of `inputs` (N, p): (N, n)."""
    return inputs @ found[0].T + found[1]


def squared_error(fitted: Tensor, wanted: Tensor) -> float:
    """The sum of squared differences."""
    return float((fitted - wanted).square().sum())


def deviations(responses: Tensor) -> Tensor:
    """The standard deviations (n,) of `responses` (N, n) along their principal axes, largest first; their squares are
    the eigenvalues of the covariance."""
    centred = responses - responses.mean(0)
    return torch.linalg.eigvalsh(centred.T @ centred / len(centred)).flip(0).clamp(min=0).sqrt()


def greedy_ranks(spectra: Mapping[str, Tensor], cost: RankCost, limit: float) -> dict[str, int]:
    """Ranks at which `cost` is at most `limit` and the product over layers of the kept squares of `spectra` large: from
    full rank on, what is dropped next loses the smallest share of its layer's for its cost (their section 3.3)."""
    squares = {name: s.square().sort(descending=True).values for name, s in spectra.items()}
    kept = {name: values.cumsum(0).tolist() for name, values in squares.items()}
    ranks = dict(cost.highest)

    def loss(name: str) -> float:
        share = float(squares[name][ranks[name] - 1]) / max(kept[name][ranks[name] - 1], 1e-300)
        return share / cost.per_rank[name]

    waiting = [(loss(name), name) for name in ranks if ranks[name] > 1]
    heapq.heapify(waiting)
    total = cost.total(ranks)
    while total > limit and waiting:
        _, name = heapq.heappop(waiting)
        ranks[name] -= 1
        total -= cost.per_rank[name]
        if ranks[name] > 1:
            heapq.heappush(waiting, (loss(name), name))
    return ranks
