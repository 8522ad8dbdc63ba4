"""Filters that convolutions lose each by itself (SFP, FPGM, CNN-FCF): of which layers, how many, and which ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, cast

import torch
from torch import Tensor, fx, nn

from paredown.core.errors import UserError
from paredown.core.modes import evaluating
from paredown.core.network import Network
from paredown.core.target import Goal
from paredown.core.unchanged import once
from paredown.graph.channels import Group, Member, channels
from paredown.graph.trace import is_sum, module_of, propagate_shapes, trace
from paredown.surgery.narrowing import size_of
from paredown.surgery.scattering import Reads, norms_behind, separable, taken_channels
from paredown.surgery.width_budget import widths_for, widths_keeping

Choice = Literal["l2", "distance"]


@once
def filter_groups(network: Network, stem: bool = True, reads: Reads = "full") -> tuple[Group, ...]:
    """Find the convolutions of the main path that can lose filters of their own, in the order of the calls: none of a
    shortcut, and the first one only with `stem`. Each is a group of its name whose channels are its filters, with all
    that `surgery.scattering.scatter`, with `reads`, cuts beside them.

    Raise UserError where there is none.
    """
    names = _main_path(network, stem)
    inside = _inside(network, names)
    wide = [name for name in names if name not in inside]
    norms = norms_behind(network, wide)
    readers = taken_channels(network, {name: [at] for at, name in enumerate(wide)}, dict.fromkeys(names, ()), reads)
    found = []
    for name in names:
        if name in wide:
            axes: list[Member] = [Member(layer, "out", _whole(network, name)) for layer in (name, norms[name])]
            axes += [Member(r, "in", _whole(network, name)) for r, at in readers.items() if wide[at[0]] == name]
            found.append(Group(name, tuple(axes), summed=True))
        elif (group := inside[name]) is not None:
            found.append(group)
    if not found:
        raise UserError(
            f"{type(network.module).__name__} has no filters to cut: no convolution of one group, beside the first and"
            " those of shortcuts, has a batch norm with scale and shift behind it"
        )
    return tuple(found)


def filters_kept(network: Network, groups: Sequence[Group], keep: float | None, goal: Goal | None) -> dict[str, int]:
    """Return how many filters each of `groups` keeps: those of `widths_keeping`, or of the one rate that meets `goal`.
    Raise UserError where `keep` removes none, and as `width_budget.widths_for` does."""
    if keep is None:
        assert goal is not None
        return widths_for(network, groups, goal)
    found = widths_keeping(groups, keep)
    if all(found[group.name] == group.size for group in groups):
        raise UserError(f"method.keep={keep:g} removes no filter of {max(g.size for g in groups)}: give a smaller one")
    return found


def chosen(weight: Tensor, number: int, choice: Choice = "l2", by_norm: int = 0) -> Tensor:
    """Return the indices, sorted, of the `number` filters of a convolution's `weight` (n, ...) that go: `l2`, those of
    smallest L2 norm (He et al. 2018); `distance`, first `by_norm` of these, then those with the smallest sum of
    distances to the others that are left (He et al. 2019). Ties go to the lower index; in float64 on the CPU."""
    filters = weight.detach().double().cpu().flatten(1)
    first = number if choice == "l2" else min(by_norm, number)
    order = filters.norm(dim=1).argsort(stable=True)
    gone, left = order[:first], order[first:].sort().values
    nearest = distances(filters[left]).argsort(stable=True)[: number - first]
    return torch.cat([gone, left[nearest]]).sort().values


def distances(filters: Tensor) -> Tensor:
    """Compute the sum of Euclidean distances of each of `filters` (n, d) to the others."""
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


def norms_of(network: Network, group: Group) -> list[Member]:
    """Return the batch norms of a group of filters."""
    members = (member for member in group.members if member.axis == "out")
    return [m for m in members if isinstance(network.module.get_submodule(m.layer), nn.BatchNorm2d)]


def _whole(network: Network, name: str) -> Tensor:
    return torch.arange(size_of(network.module.get_submodule(name), "out"))[:, None]


def _main_path(network: Network, stem: bool) -> list[str]:
    """Return the convolutions that can lose filters of their own and are called once, those of shortcuts not, the
    network's first only with `stem`."""
    graph = trace(network.module)
    with evaluating(network.module):
        propagate_shapes(graph, network.input_shape)
    nodes = [node for node in graph.graph.nodes if isinstance(module_of(node, graph), nn.Conv2d)]
    calls = Counter(str(node.target) for node in nodes)
    able = {name for name in separable(network) if calls[name] == 1}
    left = [node for node in nodes[0 if stem else 1 :] if node.target in able]
    return [str(node.target) for node in left if not _on_shortcut(node, graph)]


def _on_shortcut(conv: fx.Node, graph: fx.GraphModule) -> bool:
    """Return whether an addition joins the output of `conv` with a path of more convolutions from the same input."""
    alone = {conv}  # what holds the output of `conv` and no other convolution's
    convs = {conv.all_input_nodes[0]: 0}  # most convolutions on a path from that input beside `conv`
    for node in graph.graph.nodes:
        sources = node.all_input_nodes
        if is_sum(node) and alone & set(sources) and any(convs.get(source, 0) > 1 for source in sources):
            return True
        is_conv = isinstance(module_of(node, graph), nn.Conv2d)
        if len(sources) == 1 and sources[0] in alone and not is_conv:
            alone.add(node)
        elif node not in alone and node not in convs and (known := [convs[s] for s in sources if s in convs]):
            convs[node] = max(known) + is_conv
    return False


def _inside(network: Network, names: Iterable[str]) -> dict[str, Group | None]:
    """Return the groups of the convolutions of `names` whose channels no addition joins, their tables in the order of
    the filters; None for one whose filters do not all have channels of their own."""
    groups = channels(network.module, network.input_shape).groups
    found: dict[str, Group | None] = {}
    for name in names:
        held = [(group, m.table) for group in groups for m in group.members if (m.layer, m.axis) == (name, "out")]
        if not held or any(group.summed for group, _ in held):
            continue
        group, table = held[0]
        alone = len(held) == 1 and table.shape == (size_of(network.module.get_submodule(name), "out"), 1)
        taken = {other.name for other in found.values() if other is not None and _same(other, group)}
        found[name] = _ordered(group, name, table[:, 0].argsort()) if alone and not taken else None
    return found


def _same(one: Group, other: Group) -> bool:
    return {(m.layer, m.axis) for m in one.members} == {(m.layer, m.axis) for m in other.members}


def _ordered(group: Group, name: str, order: Tensor) -> Group:
    return replace(group, name=name, members=tuple(replace(m, table=m.table[order]) for m in group.members))


def soft(network: Network, groups: Iterable[Group], gone: Mapping[str, Tensor]) -> dict[str, list[tuple[str, Tensor]]]:
    """Return the rows of layers, by the name of their convolution, that are zero with the filters `gone` of `groups`:
    of the convolution itself first, then of batch norms."""
    found = {}
    for group in groups:
        index = gone[group.name]
        rows = [(m.layer, m.table[index].flatten()) for m in norms_of(network, group)]
        found[group.name] = [(group.name, index), *rows]
    return found


def conv_of(network: Network, group: Group) -> nn.Conv2d:
    """Return the convolution whose filters the channels of `group` are."""
    return cast(nn.Conv2d, network.module.get_submodule(group.name))
