"""Convolutions that each lose filters of their own, where an addition keeps its full width: the kept channels are
written to their places, and a convolution that reads only some takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, fx, nn

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.modes import evaluating
from paredown.core.network import Network
from paredown.graph.channels import channels
from paredown.graph.sites import batch_norm_behind
from paredown.graph.trace import is_elementwise, is_identity, is_sum, propagate_shapes, trace
from paredown.layers.narrow import Place, Reading, Spread, Take, narrowed
from paredown.surgery.narrowing import Positions, others, output, positions, remove, require_equal, size_of

Reads = Literal["full", "previous"]
Kept = Mapping[str, Sequence[int]]  # filters of convolutions, by name


def scatter(network: Network, keep: Kept, reads: Reads = "full") -> None:
    """Keep the filters `keep` of the convolutions alone, in place. Channels inside a branch are cut from all layers;
    at an addition the kept ones are written among its full width behind the batch norm.

    A convolution of `keep` that reads what one such layer wrote takes its kept channels; with `reads` "previous" also
    one behind an addition, of the layer that wrote to it last (Li et al. 2019). The network computes what it did with
    these filters, scales and shifts (and the columns not taken) set to zero; DeployError where not. Raise UserError
    for a convolution that no batch norm follows.
    """
    inside, wide = _sides(network, keep)
    taken = taken_channels(network, {name: keep[name] for name in wide}, keep, reads)
    norms = norms_behind(network, wide)
    gone: Positions = {(name, "out"): _others(network, name, keep[name]) for name in wide}
    gone |= {(norms[name], "out"): gone[name, "out"] for name in wide}
    columns: Positions = {(name, "in"): _absent(network, name, index) for name, index in taken.items()}
    before = output(
        network, {axis: at for axis, at in (inside | gone | columns).items() if axis[1] == "out" or axis in columns}
    )
    remove(network, inside)
    for name in wide:
        _spread(network, norms[name], keep[name])
    for name in dict.fromkeys((*wide, *taken)):
        _narrow_conv(network, name, keep[name] if name in wide else None, taken.get(name))
    require_equal(before, network, f"with {len(keep)} layers of fewer filters")


def _sides(network: Network, keep: Kept) -> tuple[Positions, list[str]]:
    """Return what goes inside branches, and the convolutions of `keep` whose channels an addition joins."""
    found = channels(network.module, network.input_shape)
    removed: dict[str, list[int]] = {}
    owners = {member.layer: group for group in found.groups for member in group.members if member.axis == "out"}
    apart = [name for name in keep if name not in owners or owners[name].summed]
    wide = [name for name in apart if len(keep[name]) < size_of(network.module.get_submodule(name), "out")]
    for name in keep:
        if name not in apart:
            group = owners[name]
            table = next(m.table for m in group.members if (m.layer, m.axis) == (name, "out"))
            stays = torch.isin(table[:, 0], torch.tensor(list(keep[name])))
            removed[group.name] = (~stays).nonzero()[:, 0].tolist()
    return positions(found.groups, removed), wide


def norms_behind(network: Network, names: Sequence[str]) -> dict[str, str]:
    """Return the name of the batch norm behind each convolution of `names`. Raise UserError where there is none."""
    graph = trace(network.module)
    found = {}
    for node in graph.graph.nodes:
        if node.op == "call_module" and node.target in names:
            norm = batch_norm_behind(node, graph)
            if norm is None:
                raise UserError(f"no batch norm follows {node.target}, whose filters cannot go one by one")
            found[str(node.target)] = str(norm.target)
    return found


def taken_channels(network: Network, wide: Kept, readers: Kept, reads: Reads) -> dict[str, list[int]]:
    """Return the channels that each of `readers` takes from a tensor that one of the convolutions `wide` wrote."""
    graph = trace(network.module)
    with evaluating(network.module):  # batch norms must not see the image
        propagate_shapes(graph, network.input_shape)
    written = {f"{norm}": list(wide[name]) for name, norm in norms_behind(network, list(wide)).items()}
    found = {}
    for node in graph.graph.nodes:
        if node.op == "call_module" and node.target in readers:
            source = _source(node.all_input_nodes[0], graph)
            operands = source.all_input_nodes if reads == "previous" and is_sum(source) else [source]
            last = next((str(operand.target) for operand in operands if operand.target in written), None)
            if last is not None:
                found[str(node.target)] = written[last]
    return found


def _source(node: fx.Node, graph: fx.GraphModule) -> fx.Node:
    """Return the node before the activations that lead to `node`."""
    while (
        not is_sum(node)
        and len(node.all_input_nodes) == 1
        and (is_elementwise(node, graph) or is_identity(node, graph))
    ):
        node = node.all_input_nodes[0]
    return node


def _others(network: Network, name: str, kept: Sequence[int]) -> Tensor:
    return others(cast(nn.Conv2d, network.module.get_submodule(name)).out_channels, kept)


def _absent(network: Network, name: str, taken: Sequence[int]) -> Tensor:
    return others(cast(nn.Conv2d, network.module.get_submodule(name)).in_channels, taken)


def _spread(network: Network, name: str, kept: Sequence[int]) -> None:
    """Replace the batch norm `name` by one of the channels `kept`, written among all."""
    norm = cast(nn.BatchNorm2d, network.module.get_submodule(name))
    size, index = norm.num_features, torch.tensor(list(kept))
    places = torch.full((size,), len(kept)).index_copy(0, index, torch.arange(len(kept)))
    layer = Spread(narrowed(norm, index, index), Place(places)).to(norm.weight.device)
    blueprint.place(network, name, layer, "narrow", outputs=len(kept), among=size)


def _narrow_conv(network: Network, name: str, kept: Sequence[int] | None, taken: Sequence[int] | None) -> None:
    conv = cast(nn.Conv2d, network.module.get_submodule(name))
    outputs = torch.arange(conv.out_channels) if kept is None else torch.tensor(list(kept))
    inputs = torch.arange(conv.in_channels) if taken is None else torch.tensor(list(taken))
    layer: nn.Module = narrowed(conv, outputs, inputs)
    entry = {"inputs": len(inputs), "outputs": len(outputs)}
    if taken is not None:
        entry["reads"] = conv.in_channels
        layer = Reading(Take(inputs.to(conv.weight.device)), cast(nn.Conv2d, layer))
    blueprint.place(network, name, layer, "narrow", **entry)


def separable(network: Network) -> list[str]:
    """Find the convolutions that can lose filters of their own: of one group, with a batch norm behind whose scale and
    shift go with them. One that is not affine would give a filter of zeros a constant, and the cut one nothing."""
    graph = trace(network.module)
    layers = network.module.named_modules()
    convs = {name for name, layer in layers if isinstance(layer, nn.Conv2d) and layer.groups == 1}
    calls = (node for node in graph.graph.nodes if node.op == "call_module" and node.target in convs)
    norms = [(str(node.target), batch_norm_behind(node, graph)) for node in calls]
    return [name for name, norm in norms if norm is not None and graph.get_submodule(str(norm.target)).affine]
