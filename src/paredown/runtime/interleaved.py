"""SSC with library operators only: channels in residue-major order, so that the filters of one class form a group.

A filter f has its K x K kernels on the channels m = f (mod g) where g divides the width (paper, section 2). With the
channels of every map ordered by their residue modulo a common G that divides g, these kernels are a grouped
convolution and the remaining weights a 1 x 1 convolution. The orders are folded into the weights: no permutation is
left at run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, fx, nn

from paredown.graph.trace import POOLS, is_elementwise, is_identity, module_of, operator_name, shape_of
from paredown.layers.ssc.layer import SSCConv2d
from paredown.runtime.units import Unit

Order = Tensor | None  # the channel at each position; None: the original order
GROUPS = (2, 4, 8, 16, 32, 64)


class CannotInterleave(Exception):
    """The network has an operator that needs its channels in their original order."""


class Interleaved(nn.Module):
    """The convolution `conv`, with its input and output channels in residue-major order, as the sum of a convolution in
    G groups and a 1 x 1 convolution."""

    def __init__(self, conv: nn.Conv2d, groups: int) -> None:
        super().__init__()
        n, m, kh, kw = conv.weight.shape
        rows = conv.weight.detach().unflatten(0, (groups, -1))
        grouped = torch.stack([block[:, part] for block, part in zip(rows, _slices(m, groups), strict=True)])
        rest = conv.weight.detach().clone()
        for index, part in enumerate(_slices(m, groups)):
            rest[index * (n // groups) : (index + 1) * (n // groups), part] = 0
        settings = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation, "groups": groups}
        self.spread = nn.Conv2d(m, n, (kh, kw), bias=conv.bias is not None, **settings, device="meta")  # type: ignore[arg-type]
        self.spread.weight = _frozen(grouped.flatten(0, 1))
        self.spread.bias = None if conv.bias is None else _frozen(conv.bias.detach())
        self.point: nn.Conv2d | None = None
        if rest.any():
            self.point = nn.Conv2d(m, n, 1, conv.stride, bias=False, device="meta")  # type: ignore[arg-type]
            self.point.weight = _frozen(rest[:, :, kh // 2, kw // 2][..., None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, M, H, W) to (B, N, H', W')."""
        return self.spread(x) if self.point is None else self.spread(x) + self.point(x)


def residues(channels: int, groups: int) -> Order:
    """Return the order 0, G, 2G ... 1, G + 1 ... of `channels`, None if G does not divide them."""
    return None if channels % groups else torch.arange(channels).reshape(-1, groups).T.flatten()


def divisors(units: Iterable[Unit]) -> list[int]:
    """Return the numbers of groups to try: powers of two that divide the g of an SSC layer (the p of a 1 x 1 one)."""
    layers = [unit.layer for unit in units if isinstance(unit.layer, SSCConv2d)]
    spacings = {layer.pattern[3] or layer.pattern[4] for layer in layers}
    return [groups for groups in GROUPS if any(spacing % groups == 0 for spacing in spacings)]


def splits(conv: nn.Module, groups: int) -> bool:
    """Return whether `conv`, with its channels in the original order, equals a convolution of `groups` interleaved
    groups plus a 1 x 1 convolution."""
    if type(conv) is not nn.Conv2d or conv.groups != 1 or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    n, m, kh, kw = conv.weight.shape
    centred = all(2 * p == d * (k - 1) for p, d, k in zip(conv.padding, conv.dilation, (kh, kw), strict=True))
    if n % groups or m % groups or not centred or not kh % 2 == kw % 2 == 1:
        return False
    other = torch.arange(n)[:, None] % groups != torch.arange(m) % groups
    outside = (conv.weight.detach() != 0) & other[..., None, None]
    outside[:, :, kh // 2, kw // 2] = False
    return not outside.any()


def interleave(graph: fx.GraphModule, units: Mapping[str, Unit], split: Iterable[str], groups: int) -> None:
    """Fold residue-major orders of `groups` into the weights of `graph`, whose units are plain, and replace the layers
    `split` by `Interleaved` ones. Raise CannotInterleave for an operator that depends on the channels' order."""
    orders: dict[fx.Node, Order] = {}
    chosen = set(split)
    for node in graph.graph.nodes:
        inputs = [orders[other] for other in node.all_input_nodes]
        layer = module_of(node, graph)
        if node.target in units and node.op == "call_module" and isinstance(layer, nn.Conv2d):
            orders[node] = _reorder(layer, inputs[0], groups)
            if node.target in chosen:
                graph.set_submodule(str(node.target), Interleaved(layer, groups))
        elif node.target in units and isinstance(layer, nn.Linear):
            if inputs[0] is not None:
                layer.weight = _frozen(layer.weight.detach()[..., inputs[0]])
            orders[node] = None
        else:
            orders[node] = _propagated(node, graph, inputs)


def _reorder(conv: nn.Conv2d, before: Order, groups: int) -> Order:
    """Fold the order `before` of the input channels, and one of the output channels, into `conv`; return the latter."""
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    if conv.groups > 1 and not depthwise and before is not None:
        raise CannotInterleave("a grouped convolution")
    after = before if depthwise else residues(conv.out_channels, groups) if conv.groups == 1 else None
    weight = conv.weight.detach()
    if before is not None and not depthwise:
        weight = weight[:, before]
    if after is not None:
        weight = weight[after]
        conv.bias = None if conv.bias is None else _frozen(conv.bias.detach()[after])
    conv.weight = _frozen(weight)
    return after


def _propagated(node: fx.Node, graph: fx.GraphModule, inputs: list[Order]) -> Order:
    """Return the channel order of the output of `node`, which must treat channels independently."""
    if all(order is None for order in inputs):
        return None
    first = inputs[0]
    if first is None or any(other is None or not torch.equal(first, other) for other in inputs[1:]):
        raise CannotInterleave("maps of different orders meet")
    layer, name = module_of(node, graph), operator_name(node)
    per_channel = isinstance(layer, POOLS) or name == "adaptive_avg_pool2d"
    if per_channel or is_elementwise(node, graph) or is_identity(node, graph) or _keeps_channels(node, layer):
        return first
    raise CannotInterleave(f"the operator {node.name}")


def _keeps_channels(node: fx.Node, layer: nn.Module | None) -> bool:
    """Return whether `node` flattens or averages maps (1, C, H, W) to (1, C)."""
    flat = operator_name(node) in ("flatten", "mean") or isinstance(layer, nn.Flatten)
    return flat and len(shape_of(node)) == 2 and shape_of(node)[1] == shape_of(node.all_input_nodes[0])[1]


def _slices(channels: int, groups: int) -> list[slice]:
    width = channels // groups
    return [slice(index * width, (index + 1) * width) for index in range(groups)]


def _frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.clone(memory_format=torch.contiguous_format), requires_grad=False)
