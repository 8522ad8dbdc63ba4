"""A deployed network as a graph (torch.fx) of units: a layer with weights and the batch norm behind it, made one."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional

from paredown.blueprint import CompressedLayer
from paredown.models.resnet import SubsampleAndPad
from paredown.plan import Network

Shape = tuple[int, ...]
NORMS = nn.BatchNorm1d | nn.BatchNorm2d
RELUS: tuple[Any, ...] = (functional.relu, torch.relu)
ADDS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add)
# what treats each channel alone, or each value
POOLS = nn.MaxPool2d | nn.AvgPool2d | nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d
ELEMENTWISE = nn.ReLU | nn.Hardtanh | nn.SiLU | nn.Sigmoid | nn.Hardswish | nn.Hardsigmoid | nn.GELU
FUNCTIONS: tuple[Any, ...] = (
    *(operator.add, operator.iadd, operator.mul, operator.imul, torch.add, torch.mul, torch.relu, torch.sigmoid),
    *(functional.relu, functional.relu6, functional.silu, functional.hardswish, functional.hardtanh),
)


@dataclass(frozen=True)
class Unit:
    """The layer `name` as it was trained, the batch norm behind it, and the shape (1, ...) of its input."""

    name: str
    layer: nn.Module
    norm: nn.Module | None
    input_shape: Shape


class Traced:
    """A copy of `network`'s module as `graph`, whose batch norms stand in `units` where they follow a layer that is
    called once. `graph` has the layers as they were trained, until a form is put in their place."""

    def __init__(self, network: Network) -> None:
        module = copy.deepcopy(network.module).eval()
        self.graph = fx.GraphModule(module, _Tracer().trace(module))
        like = next((tensor for tensor in module.parameters()), torch.empty(0))
        with torch.no_grad():
            image = torch.zeros(1, *network.input_shape, dtype=like.dtype, device=like.device)
            ShapeProp(self.graph).propagate(image)
        self.units = {unit.name: unit for unit in self._found()}

    def _found(self) -> Iterable[Unit]:
        calls = Counter(node.target for node in self.graph.graph.nodes if node.op == "call_module")
        for node in list(self.graph.graph.nodes):
            layer = module_of(node, self.graph)
            if isinstance(layer, CompressedLayer | nn.Conv2d | nn.Linear) and calls[node.target] == 1:
                yield Unit(str(node.target), layer, self._norm_behind(node, calls), shape_of(node.all_input_nodes[0]))

    def _norm_behind(self, node: fx.Node, calls: Counter[Any]) -> nn.Module | None:
        user = only_user(node)
        norm = None if user is None else module_of(user, self.graph)
        if user is None or not isinstance(norm, NORMS) or calls[user.target] > 1 or norm.running_mean is None:
            return None
        user.replace_all_uses_with(node)
        self.graph.graph.erase_node(user)
        return norm

    def finished(self) -> fx.GraphModule:
        """The graph, ready to run; what works in place may, and modules that are not called are gone."""
        for node in self.graph.graph.nodes:
            self._work_in_place(node)
        self.graph.graph.eliminate_dead_code()
        self.graph.delete_all_unused_submodules()
        self.graph.recompile()
        return self.graph.eval()

    def _work_in_place(self, node: fx.Node) -> None:
        """A ReLU of a fresh tensor that nobody else takes may overwrite it, and so may a sum."""
        given = node.all_input_nodes[0] if node.all_input_nodes else None
        if given is None or only_user(given) is None or not (is_sum(given) or given.target in self.units):
            return
        if is_relu(node, self.graph):
            node.op, node.target, node.args, node.kwargs = "call_function", functional.relu, (given,), {"inplace": True}
        elif is_sum(node) and node.args[0] is given:
            node.target = operator.iadd


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, CompressedLayer | SubsampleAndPad) or super().is_leaf_module(m, module_qualified_name)


def module_of(node: fx.Node, graph: fx.GraphModule) -> nn.Module | None:
    """The module that `node` calls."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that takes what `node` gives."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def shape_of(node: fx.Node) -> Shape:
    """The shape of what `node` gives for one image; () where that is no tensor."""
    meta: Any = node.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else ()


def is_relu(node: fx.Node, graph: fx.GraphModule) -> bool:
    """Whether `node` is a ReLU, as a module or a function."""
    return type(module_of(node, graph)) is nn.ReLU or (node.op == "call_function" and node.target in RELUS)


def is_sum(node: fx.Node) -> bool:
    """Whether `node` adds two tensors of one shape."""
    two = node.op == "call_function" and node.target in ADDS and len(node.args) == 2 and not node.kwargs
    return two and len({shape_of(arg) if isinstance(arg, fx.Node) else () for arg in node.args} | {shape_of(node)}) == 1
