"""SVD-NAS's design space (arXiv 2208.10404): which layers, the designs of one layer, their cost; networks of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from torch import nn

from paredown import blueprint
from paredown.cost import Cost, count
from paredown.errors import UserError
from paredown.layers._families import FAMILIES, Family, group_counts, kernel_shape, plain_pair
from paredown.layers.grouped_pair import body_macs, weighted
from paredown.plan import Network, Target

Select = Literal["auto", "kxk", "pointwise"]
ROUNDING = 1e-9


@dataclass(frozen=True)
class Branch:
    """One pair of layers: `rank` in each of `groups`."""

    family: Family
    groups: int
    rank: int


Design = Sequence[Branch]  # whose outputs add up


@dataclass(frozen=True)
class Candidate:
    """A design point of one branch and its MACs for one image; rank and family None: the layer as it is."""

    family: Family | None
    groups: int
    rank: int | None
    macs: int


def targeted(module: nn.Module, select: Select = "auto") -> dict[str, nn.Conv2d]:
    """The convolutions to compress by name, with groups=1 and dilation 1: larger than 1 x 1 and not the network's first
    (`kxk`), or 1 x 1 outside of squeeze-and-excitation, whose layers torchvision names fc (`pointwise`); `auto`:
    pointwise for a network with depthwise layers, else kxk. Raises UserError where there is none."""
    convs = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)]
    if select == "auto":
        select = "pointwise" if any(conv.groups == conv.in_channels > 1 for _, conv in convs) else "kxk"
    plain = {name: conv for name, conv in convs if conv.groups == 1 and conv.dilation == (1, 1)}
    if select == "pointwise":
        found = {n: conv for n, conv in plain.items() if conv.kernel_size == (1, 1) and "fc" not in n}
    else:
        found = {n: conv for n, conv in plain.items() if conv.kernel_size != (1, 1) and n != convs[0][0]}
    if not found:
        raise UserError(f"{type(module).__name__} has no layer to decompose (method.select={select})")
    return found


def candidates(
    conv: nn.Conv2d,
    output_size: int | tuple[int, int],
    gamma: tuple[float, float],
    step: float = 0.05,
    *,
    include_end: bool = True,
    merge: bool = False,
) -> list[Candidate]:
    """One branch's designs of `conv`, whose output is of `output_size` (height, width; or both): for each family and
    number of groups the highest rank within each fraction of the MACs on a grid over `gamma`; the layer itself last.

    The released code leaves the end of the grid out for ResNet-18 (`include_end=False`). `merge` drops what is the same
    design by another name: every family is, in one group, for a 1 x 1 convolution of stride 1. Raises UserError for
    a gamma outside (0, 1).
    """
    fractions = grid(gamma, step, include_end)
    size = (output_size, output_size) if isinstance(output_size, int) else output_size
    before = conv.weight.numel() * math.prod(size)
    shape = input_shape(conv, size)
    found = []
    for family, groups in groupings(conv, merge):
        per_rank = per_rank_macs(conv, family, groups, shape)
        ranks = {math.floor(fraction * before / per_rank + ROUNDING) for fraction in fractions} - {0}
        found += [Candidate(family, groups, rank, rank * per_rank) for rank in sorted(ranks)]
    return [*found, Candidate(None, 1, None, before)]


def grid(gamma: tuple[float, float], step: float, include_end: bool = True) -> list[float]:
    """The fractions from gamma[0] to gamma[1] in steps of `step`. Raises UserError unless 0 < gamma[0] <= gamma[1] < 1
    and step > 0."""
    low, high = gamma
    if not 0 < low <= high < 1:
        raise UserError(f"gamma={low:g} to {high:g} is no range within (0, 1): it holds fractions of a layer's MACs")
    if not step > 0:
        raise UserError(f"step={step:g} is not above 0")
    steps = math.floor((high - low) / step + ROUNDING)
    fractions = [low + index * step for index in range(steps + 1)]
    return [fraction for fraction in fractions if include_end or fraction < high - ROUNDING]


def groupings(conv: nn.Conv2d, merge: bool = False) -> list[tuple[Family, int]]:
    """Every family with every number of groups that `conv` allows; `merge` as in `candidates`."""
    shape = kernel_shape(conv)
    found = [(family, groups) for family in FAMILIES for groups in group_counts(shape, family)]
    same = conv.kernel_size == (1, 1) and conv.stride == (1, 1)
    return [pair for pair in found if pair[0] == "spatial" or pair[1] > 1] if merge and same else found


def input_shape(conv: nn.Conv2d, output_size: tuple[int, int]) -> tuple[int, int, int]:
    """The largest input (channels, height, width) from which `conv` makes an output of `output_size`."""
    sides = []
    for axis, size in enumerate(output_size):
        reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
        named = {"same": reach, "valid": 0}
        padding = named[conv.padding] if isinstance(conv.padding, str) else 2 * int(conv.padding[axis])
        sides.append(size * conv.stride[axis] + reach - padding)
    return (conv.in_channels, sides[0], sides[1])


def per_rank_macs(dense: nn.Module, family: Family, groups: int, input_shape: tuple[int, ...]) -> int:
    """What each rank of a pair in the place of `dense` costs in MACs, for one input of `input_shape`."""
    return body_macs(plain_pair(dense, family, groups, 1, bias=False), input_shape)


def per_rank_weights(dense: nn.Module, family: Family, groups: int) -> int:
    """What each rank of a pair in the place of `dense` costs in weights."""
    return sum(layer.weight.numel() for layer in weighted(plain_pair(dense, family, groups, 1, bias=False)))


class Prices:
    """What a network costs, in MACs or weights, when some of its layers follow designs: the counters' numbers without
    building it. `dense` is the cost of the network as it is."""

    def __init__(self, network: Network, quantity: Literal["macs", "weights"]) -> None:
        cost: Cost = count(network.module, network.input_shape)
        self.quantity, self.dense = quantity, int(getattr(cost, quantity))
        self._module, self._layers = network.module, {layer.name: layer for layer in cost.layers}
        self._per_rank: dict[tuple[str, Family, int], int] = {}

    def before(self, name: str) -> int:
        """What the layer `name` costs as it is."""
        return int(getattr(self._layers[name], self.quantity))

    def per_rank(self, name: str, family: Family, groups: int) -> int:
        """What each rank of a pair in the place of the layer `name` costs."""
        key = (name, family, groups)
        if key not in self._per_rank:
            layer, shape = self._module.get_submodule(name), self._layers[name].input_shape
            macs = self.quantity == "macs"
            found = per_rank_macs(layer, family, groups, shape) if macs else per_rank_weights(layer, family, groups)
            self._per_rank[key] = found
        return self._per_rank[key]

    def total(self, designs: Mapping[str, Design]) -> int:
        """The cost with `designs` by layer; the other layers stay."""
        return self.dense + sum(
            sum(branch.rank * self.per_rank(name, branch.family, branch.groups) for branch in design)
            - self.before(name)
            for name, design in designs.items()
        )


def limited(network: Network, target: Target) -> tuple[Prices, float]:
    """The prices of the dense `network` that `target` limits, and their limit."""
    prices = Prices(network, "macs" if target.quantity == "speed_up" else "weights")
    return prices, prices.dense * (1 / target.value if target.quantity == "speed_up" else 1 - target.value)


def require_reach(network: Network, target: Target, least: Mapping[str, Design]) -> None:
    """Raise UserError where even with `least`, the designs of rank 1, the dense `network` misses `target`."""
    prices, limit = limited(network, target)
    if (total := prices.total(least)) > limit:
        reach = prices.dense / total if target.quantity == "speed_up" else 1 - total / prices.dense
        raise UserError(f"{target} is out of reach: rank 1 everywhere gives {target.quantity}={reach:.4g}")


def decompose(network: Network, designs: Mapping[str, Design]) -> None:
    """Put in the place of each layer of `designs` its best approximation: grouped pairs by the SVD of each group, and
    of several branches each that of what those before leave."""
    for name, design in designs.items():
        dense = network.module.get_submodule(name)
        branches = [asdict(branch) for branch in design]
        if len(branches) == 1:
            blueprint.rewrite(network, name, "grouped_pair", **branches[0])
        else:
            blueprint.rewrite(network, name, "branches", branches=branches)
        network.module.get_submodule(name).become(dense.weight.detach(), dense.bias)  # type: ignore[operator]
