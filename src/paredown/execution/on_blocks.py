"""A traced network rewritten for the native kernel: between its layers, maps stay in blocks of 16 images."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, fx, nn
from torch.nn import functional

from paredown.execution.blocked import SparseConv2d, from_blocks, pooling, to_blocks
from paredown.execution.graph import ELEMENTWISE, FUNCTIONS, POOLS, is_relu, is_sum, module_of, only_user, shape_of
from paredown.models.resnet import SubsampleAndPad

DOES_NOTHING = nn.Dropout | nn.Identity  # in eval mode
CLAMPS: dict[type[nn.Module], tuple[float, float]] = {nn.ReLU: (0.0, math.inf), nn.ReLU6: (0.0, 6.0)}


class SubsampleAndPadBlocks(nn.Module):
    """`SubsampleAndPad` on blocks."""

    def __init__(self, stride: int, extra: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, extra

    def forward(self, x: Tensor) -> Tensor:
        """(blocks, C, H, W, 16) to (blocks, C + extra, H', W', 16)."""
        kept = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(kept, (0, 0, 0, 0, 0, 0, 0, self.extra))


def _named(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _on_blocks_instead(node: fx.Node, module: nn.Module | None) -> nn.Module | None:
    """What does on blocks what `node` does, where that is a module of its own."""
    if node.op == "call_function" and node.target is functional.adaptive_avg_pool2d:
        module = nn.AdaptiveAvgPool2d(node.args[1])  # type: ignore[arg-type]
    if isinstance(module, POOLS):
        return pooling(module)
    if isinstance(module, SubsampleAndPad):
        return SubsampleAndPadBlocks(module.stride, module.extra)
    return None


def on_blocks(graph: fx.GraphModule, native: Mapping[str, nn.Module]) -> fx.GraphModule:
    """`graph` with the modules `native` (SparseConv2d, or several in a row) in the place of the layers of these names;
    an activation and the sum of a residual block behind one become part of it."""
    for name, layer in native.items():
        graph.set_submodule(name, layer)
    graph.graph = _Rewriting(graph, native).run()
    graph.recompile()
    return graph


class _Rewriting:
    """One walk over the old graph. A value is known by its old node: `plain` or `blocked` hold it in the new graph,
    or both; `waiting` are layers that will be called with the other side of the sum behind them."""

    def __init__(self, graph: fx.GraphModule, native: Mapping[str, nn.Module]) -> None:
        self.old, self.native, self.new = graph, native, fx.Graph()
        self.plain: dict[fx.Node, fx.Node] = {}
        self.blocked: dict[fx.Node, fx.Node] = {}
        self.waiting: set[fx.Node] = set()
        self.batch: fx.Node | None = None

    def run(self) -> fx.Graph:
        for node in self.old.graph.nodes:
            if node in self.plain or node in self.blocked:  # taken into the layer before it
                continue
            if not self._on_blocks(node):
                self.plain[node] = self.new.node_copy(node, self._as_plain)
                if node.op == "placeholder":
                    self.batch = self.new.call_function(len, (self.plain[node],))
        return self.new

    def _on_blocks(self, node: fx.Node) -> bool:
        """Whether `node` could be written on blocks, and was."""
        given = node.all_input_nodes
        if node.op == "call_module" and node.target in self.native:
            self._convolution(node)
        elif is_sum(node) and any(side in self.waiting for side in given):
            self._sum(node)
        elif not any(one in self.blocked for one in given) or any(len(shape_of(one)) != 4 for one in given):
            return False
        elif isinstance(module := module_of(node, self.old), DOES_NOTHING) or _named(node) == "stochastic_depth":
            self.blocked[node] = self.blocked[given[0]]
        elif instead := _on_blocks_instead(node, module):
            name = f"{node.name}_on_blocks"
            self.old.add_submodule(name, instead)
            self.blocked[node] = self.new.call_module(name, (self.blocked[given[0]],))
        elif isinstance(module, ELEMENTWISE) or (node.op == "call_function" and node.target in FUNCTIONS):
            self.blocked[node] = self.new.node_copy(node, self._as_blocks)
        else:
            return False
        return True

    def _sum(self, node: fx.Node) -> None:
        """The layer that waits, with the other side of the sum as its second input."""
        conv, other = sorted(node.all_input_nodes, key=lambda side: side not in self.waiting)
        self._call(node, str(conv.target), self._as_blocks(conv.all_input_nodes[0]), self._as_blocks(other))

    def _convolution(self, node: fx.Node) -> None:
        user = only_user(node)
        if user is not None and is_sum(user) and type(self.native[str(node.target)]) is SparseConv2d:
            others = [side for side in user.all_input_nodes if side is not node]
            if others and others[0] not in self.waiting:
                self.waiting.add(node)
                return
        self._call(node, str(node.target), self._as_blocks(node.all_input_nodes[0]))

    def _call(self, node: fx.Node, name: str, *given: fx.Node) -> None:
        """Call the layer `name`, with the activation behind `node` as part of it."""
        made = self.blocked[node] = self.new.call_module(name, given)
        user, layer = only_user(node), self.native[name]
        if user is None or (clamp := self._clamp(user)) is None:
            return
        last = layer[-1] if isinstance(layer, nn.Sequential) else layer
        last.low, last.high = clamp  # type: ignore[assignment]
        self.blocked[user] = made

    def _clamp(self, node: fx.Node) -> tuple[float, float] | None:
        if is_relu(node, self.old):
            return CLAMPS[nn.ReLU]
        if node.op == "call_function" and node.target is functional.relu6:
            return CLAMPS[nn.ReLU6]
        return CLAMPS.get(type(module_of(node, self.old)))  # type: ignore[arg-type]

    def _as_plain(self, node: fx.Node) -> fx.Node:
        if node not in self.plain:
            self.plain[node] = self.new.call_function(from_blocks, (self.blocked[node], self.batch))
        return self.plain[node]

    def _as_blocks(self, node: fx.Node) -> fx.Node:
        if node not in self.blocked:
            self.blocked[node] = self.new.call_function(to_blocks, (self.plain[node],))
        return self.blocked[node]
