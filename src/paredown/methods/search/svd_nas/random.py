"""Random designs of SVD-NAS's space at a given cost, the baseline of its search (Li and Talwalkar, Random search and
reproducibility for neural architecture search, UAI 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.cost import count
from paredown.layers.mixed_op import Point, mixed_ops

DRAWS = 4096  # of which the one nearest to the cost is taken
STEEPEST = 1e7  # at which only the cheapest candidates are drawn


@identity("svd_nas/draw", kinds=["mixed_op"])
def draw(network: Network, context: Context, speed_up: float, number: int) -> dict[str, Any]:
    """Set the choices of all mixed operations to randomly drawn candidates, such that `network` costs its dense MACs
    over `speed_up`, as near as `DRAWS` draws come; another `number` is another key, thus another draw. Return the
    speed-up. Raise UserError where no design is as cheap."""
    layers = mixed_ops(network.module)
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
    """Return the cost of each layer's candidates (k,), and the limit of their sum, as fractions of the MACs `dense` of
    the whole network. Raise UserError where the cheapest candidates do not reach `speed_up`."""
    costs = [torch.tensor([point[3] for point in listed], dtype=torch.float64) / dense for listed in points.values()]
    fixed = 1 - float(sum(cost[-1] for cost in costs))
    least = float(sum(cost.min() for cost in costs))
    if fixed + least > 1 / speed_up:
        reach = 1 / (fixed + least)
        raise UserError(f"speed_up={speed_up:g} is out of reach: the cheapest design in method.gamma gives {reach:.4g}")
    return costs, 1 / speed_up - fixed


def tilted(costs: Sequence[Tensor], total: float) -> list[Tensor]:
    """Return for each layer the probabilities of its candidates, which cost `costs` (k,): proportional to exp(-a cost),
    with one a for all layers, at which the expected sum is `total`; of all distributions of that cost the one of most
    entropy. `total` must be between the sum of the least costs and that of the greatest."""
    from scipy.optimize import brentq

    def at(steepness: float) -> list[Tensor]:
        return [(-steepness * cost).softmax(0) for cost in costs]

    def excess(steepness: float) -> float:
        return float(sum(p @ cost for p, cost in zip(at(steepness), costs, strict=True))) - total

    return at(STEEPEST if excess(STEEPEST) >= 0 else brentq(excess, -STEEPEST, STEEPEST))
