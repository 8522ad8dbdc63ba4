"""Low-rank surgery on a whole network: which convolutions, at which ranks, at what cost."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from paredown import blueprint
from paredown.cost import count
from paredown.errors import UserError
from paredown.layers._factors import full_rank, plain_pair
from paredown.layers.conv_pair import pair_macs
from paredown.layers.low_rank import Form, LowRankConv2d, energy_rank, kept_energy
from paredown.plan import Network, Target

Select = Literal["all", "trp"]


def convolutions(module: nn.Module, select: Select = "all") -> dict[str, nn.Conv2d]:
    """The convolutions to factorise, by name: all with groups=1, or (`trp`) of those the ones larger than 1 x 1, of
    stride 1 and not the first (Xu et al. 2020, TRP). Raises UserError where there is none."""
    found = {
        name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups == 1
    }
    if select == "trp":
        inner = list(found.items())[1:]
        found = {name: conv for name, conv in inner if conv.kernel_size != (1, 1) and conv.stride == (1, 1)}
    if not found:
        raise UserError(f"{type(module).__name__} has no convolution to factorise (method.select={select})")
    return found


def low_rank_layers(module: nn.Module) -> dict[str, LowRankConv2d]:
    """The factorised layers of `module` by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LowRankConv2d)}


def dense_twin(network: Network) -> Network:
    """The dense network of the same architecture, freshly initialised; torch's generator stays where it was."""
    with torch.random.fork_rng(devices=[]):
        return blueprint.create(network.architecture, network.input_shape)


@dataclass(frozen=True)
class RankCost:
    """What a network costs, in MACs or weights, as a function of the ranks of its factorised layers: each costs
    `per_rank` times its rank, or with `fallback` at most what it cost `before`; `fixed` is the rest of the network."""

    fixed: int
    before: Mapping[str, int]
    per_rank: Mapping[str, int]
    highest: Mapping[str, int]  # the full ranks
    fallback: bool = False

    @classmethod
    def of(
        cls,
        dense: Network,
        form: Form,
        names: Sequence[str],
        quantity: Literal["macs", "weights"] = "macs",
        fallback: bool = False,
    ) -> RankCost:
        """The cost of factorising the layers `names` of the dense network in `form`."""
        cost = count(dense.module, dense.input_shape)
        layers = {layer.name: layer for layer in cost.layers}
        convs = {name: dense.module.get_submodule(name) for name in names}
        pairs = {name: plain_pair(conv, form, 1, bias=False) for name, conv in convs.items()}  # type: ignore[arg-type]
        if quantity == "macs":
            per_rank = {name: pair_macs(*pair, layers[name].input_shape) for name, pair in pairs.items()}
        else:
            per_rank = {name: sum(conv.weight.numel() for conv in pair) for name, pair in pairs.items()}
        before = {name: getattr(layers[name], quantity) for name in names}
        highest = {name: full_rank(conv, form) for name, conv in convs.items()}  # type: ignore[arg-type]
        return cls(getattr(cost, quantity) - sum(before.values()), before, per_rank, highest, fallback)

    @property
    def dense(self) -> int:
        """The cost of the dense network."""
        return self.fixed + sum(self.before.values())

    def total(self, ranks: Mapping[str, int]) -> int:
        """The cost at `ranks`."""
        return self.fixed + sum(
            self.before[name] if self.stays_dense(name, rank) else rank * self.per_rank[name]
            for name, rank in ranks.items()
        )

    def stays_dense(self, name: str, rank: int) -> bool:
        """Whether the layer `name` falls back to one dense convolution, which costs no more than its factors."""
        return self.fallback and rank * self.per_rank[name] >= self.before[name]

    def ratio(self, ranks: Mapping[str, int]) -> float:
        """Dense cost / cost at `ranks`: the speed-up, of MACs."""
        return self.dense / self.total(ranks)


def target_cost(
    dense: Network, form: Form, names: Sequence[str], target: Target, fallback: bool = False
) -> tuple[RankCost, float]:
    """The cost that `target` limits, and its limit. Raises UserError where rank 1 everywhere would not do."""
    quantity: Literal["macs", "weights"] = "macs" if target.quantity == "speed_up" else "weights"
    cost = RankCost.of(dense, form, names, quantity, fallback)
    limit = cost.dense * (1 / target.value if target.quantity == "speed_up" else 1 - target.value)
    least = cost.total(dict.fromkeys(names, 1))
    if least > limit:
        reach = cost.dense / least if target.quantity == "speed_up" else 1 - least / cost.dense
        raise UserError(
            f"{target} is out of reach in {form} form: rank 1 everywhere gives {target.quantity}={reach:.4g}"
        )
    return cost, limit


def ranks_at(spectra: Mapping[str, Tensor], energy: float) -> dict[str, int]:
    """The rank of each layer when each loses the fraction `energy` of its squared singular values."""
    return {name: energy_rank(s, energy) for name, s in spectra.items()}


def energy_within(spectra: Mapping[str, Tensor], cost: RankCost, limit: float) -> float:
    """The least energy at which `cost` is at most `limit`, by bisection over all the energies at which a rank of
    `spectra` (singular values by layer) changes; halfway to the next, so that no rounding decides."""
    steps = torch.cat([1 - kept_energy(s) for s in spectra.values()]).clamp(min=0).unique().tolist()
    between = [(low + high) / 2 for low, high in zip(steps, [*steps[1:], 1.0], strict=True)]
    energies = [0.0, *(energy for energy in between if energy < 1)]
    return energies[bisect_left(energies, -limit, key=lambda e: -cost.total(ranks_at(spectra, e)))]
