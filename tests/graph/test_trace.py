"""Predicates on nodes, on a small network that has one of each."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from paredown.graph.sites import sites
from paredown.graph.trace import (
    is_elementwise,
    is_identity,
    is_relu,
    is_sum,
    module_of,
    only_user,
    propagate_shapes,
    shape_of,
    trace,
)
from paredown.layers import masked
from paredown.layers.shortcut import SubsampleAndPad


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.shortcut = masked.build(nn.Conv2d(3, 6, 3, 2, 1)), SubsampleAndPad(2, 3)
        self.act, self.drop = nn.ReLU(), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        total = self.conv(x) + self.shortcut(x)
        once = torch.relu(functional.relu(self.drop(self.act(total)).relu()))
        return (once + once.mean((2, 3), keepdim=True)) * 2


def nodes() -> tuple[fx.GraphModule, dict[str, fx.Node]]:
    graph = trace(Small().eval())
    propagate_shapes(graph, (3, 8, 10))
    return graph, {node.name: node for node in graph.graph.nodes}


def test_compressed_layers_and_leaf_modules_are_single_nodes_with_shapes() -> None:
    graph, found = nodes()
    assert [type(module_of(found[name], graph)).__name__ for name in ("conv", "shortcut")] == [
        "MaskedConv2d",
        "SubsampleAndPad",
    ]
    assert shape_of(found["conv"]) == shape_of(found["shortcut"]) == (1, 6, 4, 5)
    assert module_of(found["add"], graph) is None
    assert only_user(found["conv"]) is found["add"] and only_user(found["x"]) is None


class NormAndActivation(nn.BatchNorm2d):
    """A batch norm with its activation, as timm has them: what it asserts uses its input too."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.ndim == 4, "maps are needed")
        torch._assert(x.size(1) == 6, "six of them")
        mean, var = self.running_mean, self.running_var
        return self.act(functional.batch_norm(x, mean, var, self.weight, self.bias, False, 0.1, self.eps))


def test_a_norm_that_computes_more_is_a_plain_norm_and_what_follows() -> None:
    module = nn.Sequential(nn.Conv2d(3, 6, 3), NormAndActivation(6)).eval()
    for tensor in (*module[1].parameters(), module[1].running_mean):
        nn.init.normal_(tensor)
    graph, images = trace(module), torch.randn(2, 3, 8, 8)
    assert [node.target for node in graph.graph.nodes if node.op == "call_module"] == ["0", "1", "1.act"]
    assert torch.equal(graph(images), module(images))
    assert type(graph.get_submodule("1")) is nn.BatchNorm2d and type(module[1]) is NormAndActivation
    assert graph.get_submodule("1").weight is module[1].weight
    site = sites(module, ["0"])["0"]
    assert site.relu
    torch.testing.assert_close(site.after(module[0](images)[:, :, 0, 0]).relu().float(), module(images)[:, :, 0, 0])


def test_relus_in_every_spelling() -> None:
    graph, found = nodes()
    assert {name for name, node in found.items() if is_relu(node, graph)} == {"act", "relu", "relu_1", "relu_2"}


def test_sums_are_of_equal_shapes() -> None:
    _, found = nodes()
    assert {name for name, node in found.items() if is_sum(node)} == {"add"}


def test_elementwise_nodes_and_identities() -> None:
    graph, found = nodes()
    elementwise = {name for name, node in found.items() if is_elementwise(node, graph)}
    assert elementwise == {"add", "act", "relu_1", "relu_2", "add_1", "mul"}
    assert {name for name, node in found.items() if is_identity(node, graph)} == {"drop"}
