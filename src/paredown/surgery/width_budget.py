"""The cost of a network as a function of the channels it keeps, and which channels a target leaves."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor, nn

from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Goal
from paredown.cost import Cost, count
from paredown.graph.channels import Channels, Group, channels
from paredown.graph.labels import Axis
from paredown.surgery.narrowing import Removed, size_of

Scope = Literal["all", "internal", "expansions"]
Quantity = Literal["macs", "weights", "params"]
QUANTITIES: dict[str, Quantity] = {"speed_up": "macs", "sparsity": "weights", "keep_params": "params"}
Widths = Mapping[str, int]  # channels that each group keeps, by its name


class WidthCost:
    """The `quantity` of `network` when the `groups` of its channels keep fewer: the counters' numbers without cutting.

    `dense` is the cost of the network as it is. MACs and weights are products of a layer's inputs and outputs, its
    biases and batch norms sums.
    """

    def __init__(self, network: Network, groups: Iterable[Group], quantity: Quantity = "macs") -> None:
        cost = count(network.module, network.input_shape)
        self.quantity, self.dense = quantity, int(getattr(cost, quantity))
        self._sizes = {group.name: group.size for group in groups}
        self._loss: dict[tuple[str, Axis], list[tuple[str, int]]] = {}
        for group in groups:
            for member in group.members:
                each = (group.name, member.table.shape[1])
                self._loss.setdefault((member.layer, member.axis), []).append(each)
        modules = {name: network.module.get_submodule(name) for name, _ in self._loss}
        self._terms = [term for name, layer in modules.items() for term in _terms(name, layer, cost, quantity)]

    def total(self, widths: Widths) -> int:
        """Return the cost when each group of `widths` keeps so many channels, all others all."""
        removed = {name: size - widths.get(name, size) for name, size in self._sizes.items()}
        return self.dense + sum(self._change(factor, name, axes, removed) for factor, name, axes in self._terms)

    def _change(self, factor: int, layer: str, axes: Mapping[Axis, int], removed: Mapping[str, int]) -> int:
        whole, kept = factor, factor
        for axis, size in axes.items():
            gone = sum(removed[group] * each for group, each in self._loss.get((layer, axis), ()))
            whole, kept = whole * size, kept * (size - gone)
        return kept - whole


def _terms(name: str, layer: nn.Module, cost: Cost, quantity: Quantity) -> Iterable[tuple[int, str, dict[Axis, int]]]:
    """Return the cost of a layer as products: a factor, and the sizes of the axes that it is multiplied by."""
    row = next((row for row in cost.layers if row.name == name), None)
    if isinstance(layer, nn.Conv2d | nn.Linear) and row is not None:
        depthwise = isinstance(layer, nn.Conv2d) and layer.groups > 1
        axes: tuple[Axis, ...] = ("out",) if depthwise else ("out", "in")
        sizes = {axis: size_of(layer, axis) for axis in axes}
        amount = row.macs if quantity == "macs" else row.weights
        yield amount // math.prod(sizes.values()), name, sizes
    if quantity == "params" and list(layer.parameters()):
        vectors = sum(parameter.dim() == 1 for parameter in layer.parameters())  # biases, scales and shifts
        yield vectors, name, {"out": size_of(layer, "out")}


def limited(network: Network, groups: Sequence[Group], goal: Goal) -> tuple[WidthCost, float]:
    """Return the cost of `network` that `goal` (a sparsity, a speed-up, kept parameters) limits, and its limit."""
    quantity: Quantity = QUANTITIES[goal.quantity]
    cost = WidthCost(network, groups, quantity)
    shares = {"macs": 1 / goal.number(), "weights": 1 - goal.number(), "params": goal.number()}
    return cost, cost.dense * shares[quantity]


def scoped(network: Network, scope: Scope | Sequence[str] = "all") -> tuple[Group, ...]:
    """Find the groups of channels of `network` that `scope` lets a method cut: `all`; `internal`: none that an addition
    joins (a residual trunk); `expansions`: those of depthwise convolutions but the stem's; or groups by name.

    Raise UserError where there is none, naming what could not be followed, and for a name that is no group's.
    """
    found = channels(network.module, network.input_shape)
    groups = _selected(network, found, scope)
    if not groups:
        left = f"; not followed: {', '.join(found.unfollowed[:3])}" if found.unfollowed else ""
        model = type(network.module).__name__
        within = "" if scope == "all" else f" within method.scope={scope}"
        raise UserError(f"{model} has no channels to cut{within}{left}")
    return groups


def _selected(network: Network, found: Channels, scope: Scope | Sequence[str]) -> tuple[Group, ...]:
    if scope == "all":
        return found.groups
    if scope == "internal":
        return tuple(group for group in found.groups if not group.summed)
    if scope == "expansions":
        first = found.groups[:1]
        return tuple(group for group in found.groups if group not in first and _expands(network, group))
    names = {group.name for group in found.groups}
    if unknown := [name for name in scope if name not in names]:
        raise UserError(f"method.scope: no group of channels begins at {unknown[0]!r}; they do at {', '.join(names)}")
    return tuple(group for group in found.groups if group.name in scope)


def _expands(network: Network, group: Group) -> bool:
    layers = (network.module.get_submodule(member.layer) for member in group.members)
    return any(isinstance(layer, nn.Conv2d) and layer.groups > 1 for layer in layers)


def steps(groups: Iterable[Group], round_to: int = 1) -> dict[str, int]:
    """Return the number of channels of each group by which its width may change, so that the outputs of its layers stay
    multiples of `round_to`. Raise UserError for a layer that is narrower than that."""
    found = {}
    for group in groups:
        outputs = math.gcd(*(member.table.shape[1] for member in group.members if member.axis == "out"))
        found[group.name] = round_to // math.gcd(round_to, outputs)
        if found[group.name] > group.size:
            width = group.size * outputs
            raise UserError(
                f"method.round_to={round_to} is wider than {group.name}, which has {width} channels to cut: "
                f"take at most {width}, or leave it out by method.scope"
            )
    return found


def rounded(kept: int, size: int, step: int) -> int:
    """Round `kept` of `size` channels up to a multiple of `step`, at most all."""
    return min(size, -(-kept // step) * step)


def floors(groups: Iterable[Group], least: int, step: Mapping[str, int]) -> dict[str, int]:
    """Return the fewest channels that each group may keep."""
    return {g.name: rounded(min(max(1, least), g.size), g.size, step[g.name]) for g in groups}


def require_reach(network: Network, groups: Sequence[Group], goal: Goal, least: int = 1, round_to: int = 1) -> None:
    """Raise UserError where even the narrowest widths miss `goal`."""
    cost, limit = limited(network, groups, goal)
    if (total := cost.total(floors(groups, least, steps(groups, round_to)))) > limit:
        shares = {"macs": cost.dense / total, "weights": 1 - total / cost.dense, "params": total / cost.dense}
        fewest = max(least, round_to)
        channel = "one channel a layer" if fewest == 1 else f"{fewest} channels a layer"
        raise UserError(f"{goal} is out of reach: {channel} gives {goal.quantity}={shares[cost.quantity]:.4g}")


def lowest(
    scores: Mapping[str, Tensor],
    groups: Sequence[Group],
    enough: Callable[[Widths], bool],
    least: int = 1,
    round_to: int = 1,
) -> dict[str, list[int]]:
    """Return the channels of the lowest `scores` (n,), by group, whose removal is `enough`: as few as possible in one
    order over all groups, ties to the earlier group, then the lower index. A group keeps at least `least`, and a
    multiple of `round_to` outputs; what rounding gives back are its highest.

    Raise UserError where all that may go is not enough, and for scores that are not finite.
    """
    step = steps(groups, round_to)
    fewest = floors(groups, least, step)
    order = _in_order(scores, groups, fewest)
    ranked = {group.name: scores[group.name].argsort(stable=True).tolist() for group in groups}

    def widths(number: int) -> dict[str, int]:
        gone = torch.bincount(order[:number], minlength=len(groups)).tolist()
        return {g.name: rounded(g.size - gone[at], g.size, step[g.name]) for at, g in enumerate(groups)}

    number = bisect_left(range(len(order) + 1), True, key=lambda number: enough(widths(number)))
    if number > len(order):
        raise UserError(f"the target is out of reach with {max(least, round_to)} channels in each layer")
    return {g.name: sorted(ranked[g.name][: g.size - widths(number)[g.name]]) for g in groups}


def _in_order(scores: Mapping[str, Tensor], groups: Sequence[Group], fewest: Mapping[str, int]) -> Tensor:
    """Return the group, by number, of each channel that may go, from the lowest score on."""
    found = []
    for at, group in enumerate(groups):
        values = scores[group.name].double().cpu()
        if not values.isfinite().all():
            raise UserError(f"the scores of channels at {group.name} are not finite: a loss of NaN, or an overflow")
        may_go = values.sort(stable=True).values[: group.size - fewest[group.name]]
        found.append(torch.stack([may_go, torch.full_like(may_go, at)], dim=1))
    every = torch.cat(found)
    return every[every[:, 0].argsort(stable=True), 1].long()


def at_one_rate(
    sizes: Mapping[str, int], enough: Callable[[Widths], bool], least: Mapping[str, int] | int = 1
) -> dict[str, int]:
    """Return the widths n - floor(r n) of layers of `sizes` n, at least `least`, at the lowest rate r for all that is
    `enough`; then, from the first layer on, one more channel wherever the widths stay `enough`.

    Raise UserError where no rate is.
    """
    fewest = {name: least if isinstance(least, int) else least[name] for name in sizes}
    rates = sorted({Fraction(gone, size) for size in sizes.values() for gone in range(size + 1)})

    def widths(rate: Fraction) -> dict[str, int]:
        return {name: max(fewest[name], n - math.floor(rate * n)) for name, n in sizes.items()}

    index = bisect_left(rates, True, key=lambda rate: enough(widths(rate)))
    if index == len(rates):
        raise UserError("the target is out of reach at any rate")
    found = widths(rates[index])
    for name, size in sizes.items():
        more = found | {name: found[name] + 1}
        if found[name] < size and enough(more):
            found = more
    return found


def widths_for(
    network: Network, groups: Sequence[Group], goal: Goal, least: int = 1, round_to: int = 1
) -> dict[str, int]:
    """Return the widths of `groups` at one rate for all that meet `goal`, the largest such. Raise UserError as
    `require_reach` does."""
    require_reach(network, groups, goal, least, round_to)
    cost, limit = limited(network, groups, goal)
    return widths_within(cost, limit, groups, least, round_to)


def widths_keeping(groups: Iterable[Group], keep: float) -> dict[str, int]:
    """Return n - floor(n (1 - keep)) for the n channels of each of `groups`, in exact fractions."""
    gone = 1 - Fraction(str(keep))
    return {group.name: group.size - math.floor(group.size * gone) for group in groups}


def widths_within(
    cost: WidthCost, limit: float, groups: Sequence[Group], least: int = 1, round_to: int = 1
) -> dict[str, int]:
    """Return the largest widths of `groups` at one rate for all whose `cost` is at most `limit`. Raise UserError where
    none is."""
    step = steps(groups, round_to)
    units = {g.name: -(-g.size // step[g.name]) for g in groups}  # a width is chosen in steps
    sizes = {g.name: g.size for g in groups}

    def channels_of(numbers: Widths) -> dict[str, int]:
        return {name: min(sizes[name], number * step[name]) for name, number in numbers.items()}

    fewest = {name: -(-number // step[name]) for name, number in floors(groups, least, step).items()}
    return channels_of(at_one_rate(units, lambda numbers: cost.total(channels_of(numbers)) <= limit, fewest))


def to_remove(scores: Mapping[str, Tensor], widths: Widths) -> Removed:
    """Return the channels of the lowest `scores` (n,) by group whose removal leaves `widths`; ties: lower index."""
    return {
        name: sorted(scores[name].argsort(stable=True)[: len(scores[name]) - width].tolist())
        for name, width in widths.items()
    }
