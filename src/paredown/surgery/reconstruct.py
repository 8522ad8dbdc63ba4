"""Low-rank reconstruction of responses, and rank selection by their variance (Zhang et al. 2016, "Accelerating Very
Deep Convolutional Networks for Classification and Detection", arXiv 1505.06798)."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

import torch
from torch import Tensor

Map = tuple[Tensor, Tensor]  # weight (n, p) and bias (n,) of x -> weight x + bias
SCHEDULE = (0.1,) * 30 + (1.0,) * 20  # penalty weight per iteration, as in the code published with He et al. 2017
CUTOFF = 1e-6  # eigenvalues of the covariance below this fraction of the largest are treated as 0
ROUNDING = 1e-12  # a variance below this fraction of the sum of squares is treated as 0


class Regression:
    """Reduced-rank regression: least squares on `inputs` (N, p), in float64, by maps of bounded rank."""

    def __init__(self, inputs: Tensor) -> None:
        self.mean = inputs.mean(0)
        self.centred = inputs - self.mean
        self.gram = self.centred.T @ self.centred
        self.inverse = torch.linalg.pinv(self.gram, rtol=CUTOFF, hermitian=True)

    def fit(self, targets: Tensor, rank: int | None = None) -> Map:
        """Return the map to `targets` (N, n) with the least squared error among those of at most `rank` (None: any).
        For targets equal to the inputs this is their PCA."""
        weight = (self.inverse @ (self.centred.T @ targets)).T
        if rank is not None and rank < len(weight):
            axes = torch.linalg.eigh(weight @ self.gram @ weight.T).eigenvectors[:, -rank:]
            weight = axes @ (axes.T @ weight)
        return weight, targets.mean(0) - weight @ self.mean


def linear(inputs: Tensor, targets: Tensor, rank: int | None = None) -> Map:
    """Minimise ||targets - (M inputs + t)||^2 over maps of at most `rank`; samples (N, p) and (N, n)."""
    return Regression(inputs).fit(targets, rank)


def nonlinear(inputs: Tensor, targets: Tensor, rank: int | None = None) -> Map:
    """Reduce ||relu(targets) - relu(M inputs + t)||^2 over maps of at most `rank` by alternating with `auxiliary`,
    starting from the linear solution (section 3.2). Return the best map of all iterations."""
    wanted, regression = targets.relu(), Regression(inputs)
    best = found = regression.fit(targets, rank)
    fitted = apply(found, inputs)
    least = squared_error(fitted.relu(), wanted)
    for weight in SCHEDULE:
        found = regression.fit(auxiliary(fitted, wanted, weight), rank)
        fitted = apply(found, inputs)
        error = squared_error(fitted.relu(), wanted)
        best, least = (found, error) if error < least else (best, least)
    return best


def auxiliary(fitted: Tensor, wanted: Tensor, weight: float) -> Tensor:
    """Return, elementwise, the z that minimises (wanted - relu(z))^2 + weight (z - fitted)^2, for wanted >= 0."""
    below = fitted.clamp(max=0)
    above = ((weight * fitted + wanted) / (weight + 1)).clamp(min=0)
    cost_below = wanted.square() + weight * (below - fitted).square()
    cost_above = (above - wanted).square() + weight * (above - fitted).square()
    return torch.where(cost_below < cost_above, below, above)


def solve(inputs: Tensor, targets: Tensor, rank: int | None, relu: bool) -> tuple[Map, float]:
    """Return the `linear` map, or the `nonlinear` one if a `relu` follows, and its squared error after that ReLU,
    relative to the variance of the targets (0 if they are constant)."""
    found = nonlinear(inputs, targets, rank) if relu else linear(inputs, targets, rank)
    fitted = apply(found, inputs)
    if relu:
        fitted, targets = fitted.relu(), targets.relu()
    variance, size = squared_error(targets, targets.mean(0)), float(targets.square().sum())
    return found, squared_error(fitted, targets) / variance if variance > ROUNDING * size else 0.0


def apply(found: Map, inputs: Tensor) -> Tensor:
    """Apply the map `found` to `inputs` (N, p); return (N, n)."""
    return inputs @ found[0].T + found[1]


def squared_error(fitted: Tensor, wanted: Tensor) -> float:
    """Return the sum of squared differences."""
    return float((fitted - wanted).square().sum())


def deviations(responses: Tensor) -> Tensor:
    """Return the standard deviations (n,) of `responses` (N, n) along their principal axes, in descending order: the
    square roots of the covariance's eigenvalues."""
    centred = responses - responses.mean(0)
    return torch.linalg.eigvalsh(centred.T @ centred / len(centred)).flip(0).clamp(min=0).sqrt()


def greedy_ranks(spectra: Mapping[str, Tensor], per_rank: Mapping[str, int], limit: float) -> dict[str, int]:
    """Choose ranks of a cost of at most `limit`, `per_rank` in each layer, that keep the product over layers of the
    retained squares of `spectra` large: starting from full rank, repeatedly drop the component with the smallest loss
    relative to its layer and its cost (section 3.3); at least 1 each, whatever that costs."""
    squares = {name: s.square().sort(descending=True).values for name, s in spectra.items()}
    kept = {name: values.cumsum(0).tolist() for name, values in squares.items()}
    ranks = {name: len(values) for name, values in kept.items()}

    def loss(name: str) -> float:
        share = float(squares[name][ranks[name] - 1]) / max(kept[name][ranks[name] - 1], 1e-300)
        return share / per_rank[name]

    waiting = [(loss(name), name) for name in ranks if ranks[name] > 1]
    heapq.heapify(waiting)
    total = sum(rank * per_rank[name] for name, rank in ranks.items())
    while total > limit and waiting:
        _, name = heapq.heappop(waiting)
        ranks[name] -= 1
        total -= per_rank[name]
        if ranks[name] > 1:
            heapq.heappush(waiting, (loss(name), name))
    return ranks
