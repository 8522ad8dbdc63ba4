"""Networks with fewer channels: channels cut from all layers that share them, proven equal to zeroing them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.core.deploy import DeployError, relative_difference
from paredown.core.errors import UserError, named_reason, reason
from paredown.core.modes import evaluating, hooked
from paredown.core.network import Network
from paredown.graph.channels import Group
from paredown.graph.labels import Axis
from paredown.layers.narrow import NORMS, narrowed
from paredown.layers.shortcut import SubsampleAndPad

AXES: tuple[Axis, ...] = ("in", "out")
Removed = Mapping[str, Sequence[int]]  # channels of groups, by the group's name
Clusters = Mapping[str, Sequence[Sequence[int]]]
Positions = dict[tuple[str, Axis], Tensor]  # int64 (n,), by layer and axis
TOLERANCE = 1e-9  # of the outputs in float64, relative to the largest
ROUNDED = 1e-5  # where sums of weights are stored in float32


def cut(network: Network, groups: Iterable[Group], removed: Removed) -> None:
    """Cut the channels `removed` of `groups` from all their members, in place. The network then computes what it did
    with the filters and biases of these channels, and the scale and shift of batch norms on them, set to zero.

    Raise DeployError where it does not, to 1e-9 in float64 on a random image.
    """
    gone = positions(groups, removed)
    before = output(network, {axis: where for axis, where in gone.items() if axis[1] == "out"})
    remove(network, gone)
    require_equal(before, network, f"with {sum(map(len, removed.values()))} channels cut")


def merge(network: Network, groups: Iterable[Group], clusters: Clusters) -> float:
    """Give the channels of each of `clusters` (by group) their mean, and keep the first, to whose columns those of the
    others are added (Ding et al. 2019, section 3.3). Return how far a channel was from its cluster's mean at most,
    relative to the mean's norm.

    Raise DeployError where the network then computes something else than with equal channels.
    """
    groups = [group for group in groups if group.name in clusters]
    members = [(member, clusters[group.name]) for group in groups for member in group.members]
    written = [(m, c) for m, c in members if m.axis == "out"]
    deviation = max((_average(network.module.get_submodule(m.layer), m.table, c) for m, c in written), default=0.0)
    before = output(network)
    for member, sets in members:
        if member.axis == "in":
            _add_columns(network.module.get_submodule(member.layer), member.table, sets)
    others = {group.name: [i for cluster in clusters[group.name] for i in cluster[1:]] for group in groups}
    remove(network, positions(groups, others))
    require_equal(before, network, f"with {sum(map(len, others.values()))} channels merged", ROUNDED)
    return deviation


def _average(layer: nn.Module, table: Tensor, clusters: Sequence[Sequence[int]]) -> float:
    """Set the output channels of each cluster to their mean. Return the largest relative deviation of a weight's."""
    deviation = 0.0
    for name, tensor in (*layer._parameters.items(), *layer._buffers.items()):
        if tensor is None or not tensor.dim():
            continue
        for cluster in clusters:
            places = table[list(cluster)].to(tensor.device)  # (k, m)
            rows = tensor.detach()[places].double()
            mean = rows.mean(0, keepdim=True)
            if name == "weight" and tensor.dim() > 1:
                norm = mean.norm().clamp(min=1e-30)
                deviation = max(deviation, float((rows - mean).flatten(1).norm(dim=1).max() / norm))
            tensor.detach()[places] = mean.expand_as(rows).to(tensor.dtype)
    return deviation


def _add_columns(layer: nn.Module, table: Tensor, clusters: Sequence[Sequence[int]]) -> None:
    """Add the input columns of each cluster to the first's. A depthwise layer and a shortcut have none."""
    weight = layer._parameters.get("weight")
    if weight is None or (isinstance(layer, nn.Conv2d) and layer.groups > 1):
        return
    for cluster in clusters:
        places = table[list(cluster)].to(weight.device)
        weight.detach()[:, places[0]] = weight.detach()[:, places].double().sum(1).to(weight.dtype)


def remove(network: Network, gone: Positions) -> None:
    """Replace every layer of `gone` by one without the channels there, whatever the network then computes."""
    for layer in dict.fromkeys(name for name, _ in gone):
        _cut_layer(network, layer, gone)


def positions(groups: Iterable[Group], chosen: Removed) -> Positions:
    """Return where the channels `chosen` of `groups` are on each axis, sorted."""
    found: dict[tuple[str, Axis], list[Tensor]] = {}
    for group in groups:
        if index := list(chosen.get(group.name, ())):
            for member in group.members:
                found.setdefault((member.layer, member.axis), []).append(member.table[index].flatten())
    return {axis: torch.cat(parts).unique() for axis, parts in found.items()}


def size_of(layer: nn.Module, axis: Axis) -> int:
    """Return the number of channels on an axis of a convolution, a linear layer or a batch norm."""
    names = {"in": ("in_channels", "in_features"), "out": ("out_channels", "out_features", "num_features")}
    return int(next(getattr(layer, name) for name in names[axis] if hasattr(layer, name)))


def entries(network: Network, gone: Mapping[tuple[str, Axis], int]) -> dict[str, dict[str, int]]:
    """Return the arguments of the kind `narrow` for every layer that loses so many channels on axes, by name."""
    found = {}
    for name in dict.fromkeys(layer for layer, _ in gone):
        layer = network.module.get_submodule(name)
        lost = {axis: gone.get((name, axis), 0) for axis in AXES}
        if isinstance(layer, SubsampleAndPad):
            found[name] = {"inputs": 0, "outputs": layer.extra - (lost["out"] - lost["in"])}
        else:
            axes = AXES[1:] if isinstance(layer, NORMS) else AXES
            found[name] = {f"{axis}puts": size_of(layer, axis) - lost[axis] for axis in axes}
    return found


def _cut_layer(network: Network, name: str, gone: Positions) -> None:
    layer = network.module.get_submodule(name)
    entry = entries(network, {axis: len(where) for axis, where in gone.items() if axis[0] == name})[name]
    if isinstance(layer, SubsampleAndPad):
        kept = {"out": torch.arange(entry["outputs"]), "in": torch.arange(0)}
    else:
        axes = [axis for axis in AXES if f"{axis}puts" in entry]
        kept = {axis: others(size_of(layer, axis), gone.get((name, axis), ())) for axis in axes}
    blueprint.place(network, name, narrowed(layer, kept["out"], kept.get("in", torch.arange(0))), "narrow", **entry)


def others(size: int, some: Tensor | Sequence[int]) -> Tensor:
    """Return the indices below `size` that are not in `some`."""
    left = torch.ones(size, dtype=torch.bool)
    left[torch.as_tensor(some, dtype=torch.int64)] = False
    return left.nonzero()[:, 0]


def output(network: Network, zeroed: Positions | None = None) -> Tensor:
    """Return the logits of a random image in float64, in eval mode, with the channels `zeroed` (n,) on axes of
    layers set to zero. Only one layer at a time is copied to float64, since a network may fill half the memory; all at
    once where one uses another's weights without a call, as torch's attention does."""
    device = next(network.module.parameters()).device
    image = torch.randn(1, *network.input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def compute(at_once: bool) -> Tensor:
        with torch.no_grad(), evaluating(network.module), _in_double(network.module, zeroed or {}, at_once):
            return cast(Tensor, network.module(image.to(device))).cpu()

    try:
        return compute(at_once=False)
    except RuntimeError:  # a weight in float32 meets an image in float64
        return compute(at_once=True)


def require_equal(before: Tensor, network: Network, what: str, tolerance: float = TOLERANCE) -> None:
    """Raise DeployError, saying `what` was done to `network`, where it does not give the logits `before`."""
    try:
        after = output(network)
    except RuntimeError as error:
        raise DeployError(f"the network {what} does not run: {reason(error)}") from error
    difference = relative_difference(before, after)
    if not difference <= tolerance:  # also where it is not a number
        raise DeployError(f"the network {what} differs by {difference:.2e} of its largest logit from the one before")


def require_cuttable(network: Network, groups: Sequence[Group]) -> None:
    """Raise UserError for a network that does not run with one channel less of each of `groups`, or not in float64."""
    removed = {group.name: [0] for group in groups if group.size > 1}
    rehearse(network, lambda trial: cut(trial, groups, removed))


def rehearse(network: Network, change: Callable[[Network], None]) -> None:
    """Make a `change` that cuts channels on a copy of `network`. Raise UserError where it fails, before a training that
    it would come after does."""
    name = type(network.module).__name__
    try:
        output(network)
    except Exception as error:  # whatever the user's forward raises
        raise UserError(
            f"{name} does not run in float64, in which a cut is proven equal ({named_reason(error)}): give the tensors "
            "that its forward makes the dtype of the images"
        ) from error
    try:
        change(copy.deepcopy(network))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name} cannot lose channels: {named_reason(error)}") from error


@contextmanager
def _in_double(module: nn.Module, zeroed: Positions, at_once: bool) -> Iterator[None]:
    """Let every layer of `module` compute in float64 while the context lasts, some output channels `zeroed`; copied
    for the time of its call, or all `at_once`."""
    handles, doubles = [], []
    for name, layer in module.named_modules():
        tensors = [t for t in (*layer._parameters.values(), *layer._buffers.values()) if t is not None]
        if any(tensor.is_floating_point() for tensor in tensors):
            double = _Double(zeroed.get((name, "out")), zeroed.get((name, "in")))
            doubles.append((double, layer))
            if at_once:
                double.enter(layer, None)
                continue
            handles.append(layer.register_forward_pre_hook(double.enter))
            handles.append(layer.register_forward_hook(double.leave))
    try:
        with hooked(handles):
            yield
    finally:
        for double, layer in reversed(doubles):  # a tensor that two layers hold was copied twice
            double.leave(layer, None, None)


class _Double:
    """Hooks that put float64 copies in the place of a layer's tensors for the time of its call."""

    def __init__(self, rows: Tensor | None, columns: Tensor | None) -> None:
        self.zeroed = [(dim, where) for dim, where in enumerate((rows, columns)) if where is not None]
        self.own: list[tuple[Tensor, Tensor]] = []

    def enter(self, layer: nn.Module, inputs: Any) -> None:
        named = (*layer._parameters.items(), *layer._buffers.items())
        for name, tensor in named:
            if tensor is None or not tensor.is_floating_point():
                continue
            self.own.append((tensor, tensor.data))
            tensor.data = tensor.data.double()
            for dim, where in self.zeroed:
                if name == "weight" or (name == "bias" and dim == 0):
                    tensor.data = tensor.data.index_fill(dim, where.to(tensor.device), 0.0)

    def leave(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        for tensor, data in self.own:
            tensor.data = data
        self.own.clear()
