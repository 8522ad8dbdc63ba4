"""The cost of a network as a function of the designs of its layers, and the ranks that keep it within a target."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Target
from paredown.cost import count
from paredown.layers.factorised.forms import Branch, Design, Factorisation, Shape, pair_macs, pair_size, plain_pair
from paredown.layers.factorised.svd import energy_rank, kept_energy

Quantity = Literal["macs", "weights"]
Designs = Mapping[str, Design]
Criterion = Literal["energy", "threshold"]


class DesignCost:
    """The cost of `network`, MACs or weights, with some layers replaced by designs: the counters' numbers without
    building the network. `dense` is the cost of the network as it is."""

    def __init__(self, network: Network, quantity: Quantity = "macs") -> None:
        cost = count(network.module, network.input_shape)
        self.quantity, self.dense = quantity, int(getattr(cost, quantity))
        self._layers = {layer.name: layer for layer in cost.layers}
        self._modules = dict(network.module.named_modules())
        self._per_rank: dict[tuple[str, Factorisation, int], int] = {}

    def layer(self, name: str) -> int:
        """Return the cost of the layer `name` as it is."""
        return int(getattr(self._layers[name], self.quantity))

    def per_rank(self, name: str, factorisation: Factorisation, groups: int = 1) -> int:
        """Return the cost of each rank of a pair in place of the layer `name`, its MACs over all calls of the layer."""
        key = (name, factorisation, groups)
        if key not in self._per_rank:
            layer, calls = self._modules[name], self._layers[name].calls
            each = [batch * rank_cost(layer, factorisation, groups, shape) for batch, shape in calls]
            weights = self.quantity == "weights"
            self._per_rank[key] = rank_cost(layer, factorisation, groups) if weights else sum(each)
        return self._per_rank[key]

    def total(self, designs: Designs) -> int:
        """Return the cost with the layers of `designs` replaced."""
        return self.dense + sum(self._cost(name, design) - self.layer(name) for name, design in designs.items())

    def ratio(self, designs: Designs) -> float:
        """Return the dense cost over that with `designs`; of MACs, the speed-up."""
        return self.dense / self.total(designs)

    def cheaper(self, designs: Designs) -> dict[str, Design]:
        """Return those of `designs` that cost less than the layer as it is."""
        return {name: design for name, design in designs.items() if self._cost(name, design) < self.layer(name)}

    def _cost(self, name: str, design: Design) -> int:
        return sum(branch.rank * self.per_rank(name, branch.factorisation, branch.groups) for branch in design)


def rank_cost(dense: nn.Module, factorisation: Factorisation, groups: int, input_shape: Shape | None = None) -> int:
    """Return the MACs of each rank of a pair in place of `dense` for one input of `input_shape`; None: its weights."""
    pair = plain_pair(dense, factorisation, groups, 1, bias=False)
    return pair_size(pair) if input_shape is None else pair_macs(pair, input_shape)


def limited(network: Network, target: Target) -> tuple[DesignCost, float]:
    """Return the cost of the dense `network` that `target` limits, and its limit."""
    speed_up = target.quantity == "speed_up"
    cost = DesignCost(network, "macs" if speed_up else "weights")
    return cost, cost.dense * (1 / target.value if speed_up else 1 - target.value)


def require_reach(network: Network, target: Target, least: Designs) -> None:
    """Raise UserError where even with `least`, the designs of rank 1, the dense `network` misses `target`."""
    cost, limit = limited(network, target)
    if (total := cost.total(least)) > limit:
        reach = cost.dense / total if target.quantity == "speed_up" else 1 - total / cost.dense
        raise UserError(f"{target} is out of reach: rank 1 everywhere gives {target.quantity}={reach:.4g}")


def uniform(ranks: Mapping[str, int], factorisation: Factorisation) -> dict[str, Design]:
    """Return the designs of `ranks` by layer in one factorisation and one group."""
    return {name: [Branch(factorisation, 1, rank)] for name, rank in ranks.items()}


def ranks_at(spectra: Mapping[str, Tensor], criterion: Criterion, value: float) -> dict[str, int]:
    """Return the rank of each layer of `spectra` (singular values (r,) by layer), at least 1: `energy` is the fraction
    of its squared singular values that each layer loses, `threshold` what the singular values that stay exceed."""
    if criterion == "energy":
        return {name: energy_rank(s, value) for name, s in spectra.items()}
    return {name: max(1, int((s > value).sum())) for name, s in spectra.items()}


def reaching(
    target: Target,
    network: Network,
    spectra: Mapping[str, Tensor],
    designs: Callable[[Mapping[str, int]], Designs],
    criterion: Criterion = "energy",
) -> float:
    """Return the least energy or threshold, the same for all layers of `spectra`, at which the dense `network` with the
    `designs` of the ranks reaches `target`. Raise UserError where none does."""
    cost, limit = limited(network, target)
    steps = [1 - kept_energy(s) if criterion == "energy" else s for s in spectra.values()]
    end = 1.0 if criterion == "energy" else None
    found = least(steps, lambda value: cost.total(designs(ranks_at(spectra, criterion, value))) <= limit, end)
    if found is None:
        raise UserError(f"{target} is out of reach")
    return found


def least(steps: Iterable[Tensor], enough: Callable[[float], bool], end: float | None = None) -> float | None:
    """Return the least value that is `enough`, None where none is, by bisection: `steps` (r,) are the values at which a
    rank changes, of which 0 and the points halfway to the next are tried, so that no rounding decides. What follows the
    last step is `end` (None: twice the last)."""
    values = torch.cat(list(steps)).clamp(min=0).unique().tolist()
    ends = [*values[1:], 2 * values[-1] if end is None else end]
    tried = [0.0, *((low + high) / 2 for low, high in zip(values, ends, strict=True))]
    index = bisect_left(tried, True, key=enough)
    return tried[index] if index < len(tried) else None
