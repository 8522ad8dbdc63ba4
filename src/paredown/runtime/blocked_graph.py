"""Rewrite a traced network for the CPU kernel: between its layers, maps stay in blocks of images."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import fx, nn
from torch.nn import functional

from paredown.graph.trace import (
    POOLS,
    is_elementwise,
    is_identity,
    is_relu,
    is_sum,
    module_of,
    only_user,
    shape_of,
)
from paredown.layers.shortcut import LeafModule
from paredown.runtime.blocked_layers import SparseConv2d, from_blocks, pooling, to_blocks

RELU, RELU6 = (0.0, math.inf), (0.0, 6.0)


def convert_to_blocks(graph: fx.GraphModule, kernels: Mapping[str, nn.Module]) -> fx.GraphModule:
    """Replace the layers of `graph` named in `kernels` by these modules (SparseConv2d, or several in sequence) and run
    what follows on blocks where possible. A ReLU and a residual sum behind a kernel are fused into it."""
    for name, layer in kernels.items():
        graph.set_submodule(name, layer)
    graph.graph = _Rewriter(graph, kernels).run()
    graph.recompile()
    return graph


class _Rewriter:
    """One pass over the old graph. `plain` and `blocked` map nodes of the old graph to their values in the new one, in
    either layout or both; `deferred` are convolutions that will be called with the other operand of a sum."""

    def __init__(self, graph: fx.GraphModule, kernels: Mapping[str, nn.Module]) -> None:
        self.old, self.kernels, self.new = graph, kernels, fx.Graph()
        self.plain: dict[fx.Node, fx.Node] = {}
        self.blocked: dict[fx.Node, fx.Node] = {}
        self.deferred: set[fx.Node] = set()
        self.batch: fx.Node | None = None

    def run(self) -> fx.Graph:
        for node in self.old.graph.nodes:
            if node in self.plain or node in self.blocked:  # fused into the layer before it
                continue
            if not self._convert(node):
                self.plain[node] = self.new.node_copy(node, self._as_plain)
                if node.op == "placeholder":
                    self.batch = self.new.call_function(len, (self.plain[node],))
        return self.new

    def _convert(self, node: fx.Node) -> bool:
        """Add `node` to the new graph on blocks; return False if it cannot run on them."""
        inputs = node.all_input_nodes
        if node.op == "call_module" and node.target in self.kernels:
            self._convolution(node)
        elif is_sum(node) and any(operand in self.deferred for operand in inputs):
            self._sum(node)
        elif not any(value in self.blocked for value in inputs) or any(len(shape_of(value)) != 4 for value in inputs):
            return False
        elif is_identity(node, self.old):
            self.blocked[node] = self.blocked[inputs[0]]
        elif pool := _pool(node, module_of(node, self.old)):
            name = f"{node.name}_on_blocks"
            self.old.add_submodule(name, pooling(pool))
            self.blocked[node] = self.new.call_module(name, (self.blocked[inputs[0]],))
        elif is_elementwise(node, self.old) or isinstance(module_of(node, self.old), LeafModule):
            self.blocked[node] = self.new.node_copy(node, self._as_blocks)
        else:
            return False
        return True

    def _sum(self, node: fx.Node) -> None:
        conv, other = sorted(node.all_input_nodes, key=lambda operand: operand not in self.deferred)
        self._call(node, str(conv.target), self._as_blocks(conv.all_input_nodes[0]), self._as_blocks(other))

    def _convolution(self, node: fx.Node) -> None:
        user = only_user(node)
        if user is not None and is_sum(user) and type(self.kernels[str(node.target)]) is SparseConv2d:
            others = [operand for operand in user.all_input_nodes if operand is not node]
            if others and others[0] not in self.deferred:
                self.deferred.add(node)
                return
        self._call(node, str(node.target), self._as_blocks(node.all_input_nodes[0]))

    def _call(self, node: fx.Node, name: str, *inputs: fx.Node) -> None:
        """Call the layer `name`, with the activation behind `node` fused into it."""
        output = self.blocked[node] = self.new.call_module(name, inputs)
        user, layer = only_user(node), self.kernels[name]
        if user is None or (clamp := self._clamp(user)) is None:
            return
        last = layer[-1] if isinstance(layer, nn.Sequential) else layer
        last.low, last.high = clamp  # type: ignore[assignment]
        self.blocked[user] = output

    def _clamp(self, node: fx.Node) -> tuple[float, float] | None:
        if is_relu(node, self.old):
            return RELU
        function = node.op == "call_function" and node.target is functional.relu6
        return RELU6 if function or type(module_of(node, self.old)) is nn.ReLU6 else None

    def _as_plain(self, node: fx.Node) -> fx.Node:
        if node not in self.plain:
            self.plain[node] = self.new.call_function(from_blocks, (self.blocked[node], self.batch))
        return self.plain[node]

    def _as_blocks(self, node: fx.Node) -> fx.Node:
        if node not in self.blocked:
            self.blocked[node] = self.new.call_function(to_blocks, (self.plain[node],))
        return self.blocked[node]


def _pool(node: fx.Node, module: nn.Module | None) -> nn.Module | None:
    if node.op == "call_function" and node.target is functional.adaptive_avg_pool2d:
        return nn.AdaptiveAvgPool2d(node.args[1])  # type: ignore[arg-type]
    return module if isinstance(module, POOLS) else None
