"""Groups of channels that can be cut: which rows and columns of which layers must go together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paredown.core.modes import evaluating
from paredown.core.unchanged import once
from paredown.graph.labelling import Labelling
from paredown.graph.labels import FIXED, Axis
from paredown.graph.trace import Shape


@dataclass(frozen=True)
class Member:
    """An axis of the layer `layer` that a group's channels are on: `table` (n, m) holds the m positions there of each
    of its n channels. Batch norms, convolutions, linear layers and padded shortcuts have an axis `out`, all but batch
    norms an axis `in`."""

    layer: str
    axis: Axis
    table: Tensor


@dataclass(frozen=True)
class Group:
    """Channels that lie on the same axes of the same layers: any of them can be cut, each from all its `members`.

    `name` is that of the first layer in the order of the calls, from the second group that begins there on with "@" and
    a number; `summed`: an addition joins them with other layers' (a residual trunk).
    """

    name: str
    members: tuple[Member, ...]
    summed: bool

    @property
    def size(self) -> int:
        """The number of channels."""
        return len(self.members[0].table)

    @property
    def layer(self) -> str:
        """The first layer."""
        return self.members[0].layer


@dataclass(frozen=True)
class Channels:
    """The `groups` of a network, in the order of the calls, and what could not be followed, whose channels stay."""

    groups: tuple[Group, ...]
    unfollowed: tuple[str, ...]


@once
def channels(module: nn.Module, input_shape: Shape) -> Channels:
    """Find the channels of `module` that can be cut, from a run on channel labels for one image of `input_shape`
    (channels, height, width).

    The image's and the logits' channels stay, as do a group of channels that would empty an axis by itself, and what
    an operator reads that cannot be followed. Raise UserError where torch.fx cannot trace the network.
    """
    with evaluating(module), torch.no_grad():
        run = Labelling(module, input_shape)
    roots = run.labels.roots()
    places = {axis: _places(roots[labels.abs()]) for axis, labels in run.axes.items()}
    stay = {int(roots[FIXED])} | {root for found in places.values() if len(found) == 1 for root in found}
    added = [tensor.flatten() for tensor in run.labels.summed]
    summed = set(roots[torch.cat(added).abs()].unique().tolist()) if added else set()
    groups = _groups(places, stay, summed)
    return Channels(tuple(_named(groups)), tuple(run.labels.reasons))


def _places(roots: Tensor) -> dict[int, list[int]]:
    """Return the positions in `roots` (n,) of each root."""
    found: dict[int, list[int]] = {}
    for position, root in enumerate(roots.tolist()):
        found.setdefault(root, []).append(position)
    return found


def _groups(places: Mapping[tuple[str, Axis], dict[int, list[int]]], stay: set[int], summed: set[int]) -> list[Group]:
    """Collect the roots that lie on the same axes, as often on each."""
    on: dict[int, list[tuple[tuple[str, Axis], list[int]]]] = {}
    for axis, found in places.items():
        for root, positions in found.items():
            if root not in stay:
                on.setdefault(root, []).append((axis, positions))
    alike: dict[tuple[tuple[tuple[str, Axis], int], ...], list[int]] = {}
    for root, where in on.items():
        alike.setdefault(tuple((axis, len(positions)) for axis, positions in where), []).append(root)
    groups = []
    for axes, members in alike.items():
        ordered = sorted(members, key=lambda root: on[root][0][1][0])
        tables = [torch.tensor([on[root][at][1] for root in ordered]) for at in range(len(axes))]
        named = [Member(*axis, table) for (axis, _), table in zip(axes, tables, strict=True)]
        groups.append(Group(axes[0][0][0], tuple(named), any(root in summed for root in ordered)))
    return groups


def _named(groups: Iterable[Group]) -> Iterable[Group]:
    """Yield `groups` with numbers for those that begin at the same layer, from the second on."""
    seen: Counter[str] = Counter()
    for group in groups:
        seen[group.name] += 1
        number = seen[group.name]
        yield group if number == 1 else Group(f"{group.name}@{number}", group.members, group.summed)
