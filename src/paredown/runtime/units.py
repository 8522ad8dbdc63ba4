"""A traced network as units: a layer with weights together with the batch norm behind it."""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from torch import fx, nn
from torch.nn import functional

from paredown.core.compressed import CompressedLayer
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.graph.sites import batch_norm_behind
from paredown.graph.trace import Shape, is_relu, is_sum, module_of, only_user, propagate_shapes, shape_of, trace


def require_traceable(module: nn.Module) -> fx.GraphModule:
    """Return the trace of `module`. Raise UserError, with the way out, where torch.fx cannot follow it."""
    try:
        return trace(module)
    except UserError as error:
        raise UserError(f"{error}: deploy=auto needs that, take deploy=plain") from error


@dataclass(frozen=True)
class Unit:
    """The trained layer `name`, the batch norm behind it, and its input shape for one image, (1, ...)."""

    name: str
    layer: nn.Module
    norm: nn.Module | None
    input_shape: Shape


class Traced:
    """A traced copy of a network. `units` are its layers that are called once; the batch norms that they include are
    removed from `graph`, whose layers stay the trained ones until a backend replaces them."""

    def __init__(self, network: Network) -> None:
        self.graph = trace(copy.deepcopy(network.module).eval())
        propagate_shapes(self.graph, network.input_shape)
        self.units = {unit.name: unit for unit in self._found()}

    def _found(self) -> Iterable[Unit]:
        calls = Counter(node.target for node in self.graph.graph.nodes if node.op == "call_module")
        for node in list(self.graph.graph.nodes):
            layer = module_of(node, self.graph)
            if isinstance(layer, CompressedLayer | nn.Conv2d | nn.Linear) and calls[node.target] == 1:
                yield Unit(str(node.target), layer, self._take_norm(node), shape_of(node.all_input_nodes[0]))

    def _take_norm(self, node: fx.Node) -> nn.Module | None:
        """Remove the call of the batch norm behind `node` from the graph and return the batch norm."""
        user = batch_norm_behind(node, self.graph)
        if user is None:
            return None
        norm = module_of(user, self.graph)
        user.replace_all_uses_with(node)
        self.graph.graph.erase_node(user)
        return norm

    def finalise(self) -> fx.GraphModule:
        """Make ReLUs and sums work in place where that is safe, remove what is not called, and return the graph."""
        for node in self.graph.graph.nodes:
            self._work_in_place(node)
        self.graph.graph.eliminate_dead_code()
        self.graph.delete_all_unused_submodules()
        self.graph.recompile()
        return self.graph.eval()

    def _work_in_place(self, node: fx.Node) -> None:
        # safe on the fresh output of a unit or a sum that nothing else uses
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        if source is None or only_user(source) is None or not (is_sum(source) or source.target in self.units):
            return
        if is_relu(node, self.graph):
            node.op, node.target, node.args = "call_function", functional.relu, (source,)
            node.kwargs = {"inplace": True}
        elif is_sum(node) and node.args[0] is source:
            node.target = operator.iadd
