"""Clusters of a layer's filters, by k-means, for channels that are to become equal (Ding et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from paredown.core.distributed import broadcast
from paredown.graph.channels import Group
from paredown.surgery.importance import producers

ROUNDS = 100
SEED = 0


def clusters_of(module: nn.Module, groups: Iterable[Group], widths: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the cluster (n,), int64, of each channel of the groups in `widths`, so many clusters each: of the filters
    of the first layer that writes them; the other layers follow it. The same on all ranks."""
    found = {}
    for group in groups:
        if group.name in widths:
            pace = next(iter(producers(module, group)))
            weight = cast(Tensor, module.get_submodule(pace.layer).weight).detach()
            filters = weight[pace.table.to(weight.device)].flatten(1).double().cpu()
            found[group.name] = broadcast(kmeans(filters, widths[group.name]))
    return found


def members(clusters: Tensor) -> list[list[int]]:
    """Return the channels of each of `clusters` (n,), in the order of their first."""
    sets = [(clusters == number).nonzero()[:, 0].tolist() for number in clusters.unique().tolist()]
    return sorted(sets)


def kmeans(points: Tensor, number: int) -> Tensor:
    """Return the cluster (n,), int64, of each of `points` (n, d) in float64, every one of the `number` clusters with a
    point: k-means++ from a fixed seed, then Lloyd's steps; an empty cluster takes the point farthest from its centre.
    Where `number` is n each is a cluster of its own."""
    if number == len(points):
        return torch.arange(number)
    centres = points[_spread_out(points, number)]
    found = torch.full((len(points),), -1)
    for _ in range(ROUNDS):
        squares = torch.cdist(points, centres, compute_mode="donot_use_mm_for_euclid_dist").square()
        nearest, now = squares.min(1)
        for empty in sorted(set(range(number)) - set(now.tolist())):
            alone = torch.bincount(now, minlength=number)[now] == 1  # would leave another cluster empty
            farthest = int(torch.where(alone, -1.0, nearest).argmax())
            now[farthest], nearest[farthest] = empty, 0.0
        if torch.equal(now, found):
            break
        found = now
        centres = averages(points, found, number)
    return found


def averages(values: Tensor, clusters: Tensor, number: int) -> Tensor:
    """Return the mean of `values` (n, ...) over each of the `number` `clusters` (n,), (number, ...)."""
    sums = values.new_zeros(number, *values.shape[1:]).index_add_(0, clusters, values)
    counts = torch.bincount(clusters, minlength=number).to(values.dtype)
    return sums / counts.reshape(-1, *(1,) * (values.dim() - 1))


def _spread_out(points: Tensor, number: int) -> list[int]:
    """Choose the first centres, each with a probability that grows with its squared distance to the nearest before."""
    generator = torch.Generator().manual_seed(SEED)
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    while len(chosen) < number:
        squares = torch.cdist(points, points[chosen], compute_mode="donot_use_mm_for_euclid_dist").amin(1).square()
        squares[chosen] = 0.0
        left = torch.ones(len(points), dtype=torch.float64).index_fill(0, torch.tensor(chosen), 0.0)
        weights = squares if bool(squares.sum() > 0) else left  # equal points: any of the others
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
    return chosen
