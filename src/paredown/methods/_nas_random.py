"""Designs of SVD-NAS's space drawn at random at a given cost: what its search must beat to have found anything (Li and
Talwalkar, Random search and reproducibility for neural architecture search, UAI 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from paredown.cost import count
from paredown.errors import UserError
from paredown.layers.searched import Point, searched
from paredown.plan import Context, Network

DRAWS = 4096  # of which the one nearest to the cost is taken
STEEPEST = 1e7  # at which only the cheapest candidates are drawn


def draw(network: Network, context: Context, speed_up: float, number: int) -> dict[str, Any]:
    """Make candidates drawn at random the choices of all searched layers, for `network` to cost its dense MACs over
    `speed_up`, as near as `DRAWS` draws come; another `number` is another key, thus another draw. UserError where no
    design is as cheap."""
    layers = searched(network.module)
    dense = count(network.module, network.input_shape).macs  # no choice has been made yet
    costs, limit = reachable({name: layer.points for name, layer in layers.items()}, dense, speed_up)
    generator = torch.Generator().manual_seed(context.seed)
    drawn = [torch.multinomial(p, DRAWS, replacement=True, generator=generator) for p in tilted(costs, limit)]
    totals = sum(cost[row] for cost, row in zip(costs, drawn, strict=True))
    assert isinstance(totals, Tensor)
    nearest = int((totals - limit).abs().argmin())
    for layer, row in zip(layers.values(), drawn, strict=True):
        layer.choice.fill_(row[nearest])
    return {"speed_up": 1 / (1 / speed_up + float(totals[nearest]) - limit)}


def reachable(points: Mapping[str, Sequence[Point]], dense: int, speed_up: float) -> tuple[list[Tensor], float]:
    """What the candidates of each layer cost, (k,) each, and what they may cost together, both as fractions of the MACs
    `dense` of the whole network. UserError where `speed_up` is more than the cheapest give."""
    costs = [torch.tensor([point[3] for point in listed], dtype=torch.float64) / dense for listed in points.values()]
    fixed = 1 - float(sum(cost[-1] for cost in costs))
    least = float(sum(cost.min() for cost in costs))
    if fixed + least > 1 / speed_up:
        reach = 1 / (fixed + least)
        raise UserError(f"speed_up={speed_up:g} is out of reach: the cheapest design in method.gamma gives {reach:.4g}")
    return costs, 1 / speed_up - fixed


def tilted(costs: Sequence[Tensor], total: float) -> list[Tensor]:
    """For each layer the probabilities of its candidates, which cost `costs` (k,): proportional to exp(-a cost), with
    the one a for all layers at which the expected sum is `total`. Of all distributions of that cost the one of most
    entropy. `total` lies between the sum of the least and that of the greatest."""
    from scipy.optimize import brentq

    def at(steepness: float) -> list[Tensor]:
        return [(-steepness * cost).softmax(0) for cost in costs]

    def excess(steepness: float) -> float:
        return float(sum(p @ cost for p, cost in zip(at(steepness), costs, strict=True))) - total

    return at(STEEPEST if excess(STEEPEST) >= 0 else brentq(excess, -STEEPEST, STEEPEST))
