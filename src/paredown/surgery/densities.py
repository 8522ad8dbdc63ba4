"""How many weights each layer of a sparse network gets before its masks move, exact in their sum."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from typing import Literal

from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Target
from paredown.layers.local import LocallyConnected2d
from paredown.layers.masked import maskable
from paredown.surgery.sparsify import kept_of, macs_per_weight, shares, sizes, speed_up_left

Start = Literal["uniform", "erk", "er"]
Numbers = Mapping[str, int]


def allocate(ratios: Mapping[str, float], total: int, least: Numbers, most: Numbers) -> dict[str, int]:
    """Return whole counts by layer that sum to `total`, in the proportions `ratios` (above 0) but for layers at their
    `least` or their `most`; remainders go as in `shares`. Raise ValueError unless the limits allow `total`."""
    if not sum(least.values()) <= total <= sum(most.values()):
        raise ValueError(f"{total} is not between {sum(least.values())} and {sum(most.values())}")

    def wanted(factor: float) -> dict[str, float]:
        return {name: min(max(factor * ratio, least[name]), most[name]) for name, ratio in ratios.items()}

    # the sum rises with the factor, and is linear between the factors at which a layer comes to a limit
    ends = sorted({limit[name] / ratio for name, ratio in ratios.items() for limit in (least, most)})
    place = bisect_left([sum(wanted(factor).values()) for factor in ends], total)
    factor = ends[min(place, len(ends) - 1)]
    if 0 < place < len(ends):
        middle = (ends[place - 1] + factor) / 2
        free = [name for name, ratio in ratios.items() if least[name] < middle * ratio < most[name]]
        fixed = sum(value for name, value in wanted(middle).items() if name not in free)
        factor = (total - fixed) / sum(ratios[name] for name in free) if free else factor
    return shares(wanted(factor), total, most)


def proportions(network: Network, start: Start) -> dict[str, float]:
    """Return by layer what its number of weights is proportional to: its size (`uniform`); the sum of its weight's
    dimensions, Erdos-Renyi-Kernel (`erk`, Evci et al. 2020); its inputs and outputs alone, at each position of a
    kernel (`er`, Mocanu et al. 2018)."""
    if start == "uniform":
        return {name: float(size) for name, size in sizes(network).items()}
    found = {}
    for name, layer in maskable(network.module).items():
        shape = list(layer.weight.shape)  # type: ignore[arg-type]
        ends = shape[1:] if isinstance(layer, LocallyConnected2d) else shape[:2]
        positions = math.prod(shape) // math.prod(ends)
        found[name] = float(sum(shape) if start == "erk" else sum(ends) * positions)
    return found


def start_counts(
    network: Network, target: Target, start: Start, least: int = 0, keep_first: bool = False
) -> dict[str, int]:
    """Return how many weights each layer gets so that `network` meets `target`: a sparsity to the weight, a speed-up by
    the most weights whose multiply-adds fit; `least` in each layer, all in the first where `keep_first`. Raise
    UserError where that cannot be, or where a layer would get none."""
    most = sizes(network)
    floor = {name: min(least, size) for name, size in most.items()}
    if keep_first:
        floor[next(iter(most))] = most[next(iter(most))]
    ratios, lowest = proportions(network, start), sum(floor.values())
    if target.quantity == "sparsity":
        total = kept_of(network, target.value)
    else:
        price = macs_per_weight(network)
        budget, _, _ = speed_up_left(network, target, price)

        def macs(total: int) -> int:
            return sum(price[name] * number for name, number in allocate(ratios, total, floor, most).items())

        totals = range(lowest, sum(most.values()) + 1)
        total = lowest - 1 + bisect_right(totals, budget, key=macs)
    if total < max(1, lowest):
        held = [f"method.least={least}"] * bool(least) + ["method.keep_first=true"] * keep_first
        raise UserError(f"{target} leaves {max(0, total)} weights: {' and '.join(held) or 'a network'} needs more")
    counts = allocate(ratios, total, floor, most)
    if dead := [name for name, number in counts.items() if not number]:
        more = f" and {len(dead) - 1} more layers" if len(dead) > 1 else ""
        none = f"no weight in {dead[0]}{more}, and no move brings one back"
        raise UserError(f"{target} leaves {none}: method.least=1 keeps one in each")
    return counts
