"""SSC by library operators alone: channels in residue-major order, so that filters of one class are a group.

A filter f has its K x K kernels on the channels m = f (mod g) where g divides the width (paper, section 2). With the
channels of every map ordered by their residue modulo a common G that divides g, these are a grouped convolution, and
everything else a 1 x 1 convolution. The orders are folded into the weights: none is left at run time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, fx, nn

from paredown.execution.graph import ELEMENTWISE, FUNCTIONS, POOLS, Unit, module_of, shape_of
from paredown.layers.ssc import SSCConv2d

Order = Tensor | None  # at each place, the channel that now lies there; None: as it was


class Unfit(Exception):
    """The network has an operator that needs its channels in their own order."""


class Interleaved(nn.Module):
    """`conv`, whose channels are ordered on both sides, as a convolution of G groups and one of 1 x 1, added."""

    def __init__(self, conv: nn.Conv2d, groups: int) -> None:
        super().__init__()
        n, m, kh, kw = conv.weight.shape
        rows = conv.weight.detach().unflatten(0, (groups, -1))
        own = torch.stack([block[:, part] for block, part in zip(rows, _slices(m, groups), strict=True)])
        rest = conv.weight.detach().clone()
        for index, part in enumerate(_slices(m, groups)):
            rest[index * (n // groups) : (index + 1) * (n // groups), part] = 0
        settings = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation, "groups": groups}
        self.spread = nn.Conv2d(m, n, (kh, kw), bias=conv.bias is not None, **settings, device="meta")  # type: ignore[arg-type]
        self.spread.weight = _frozen(own.flatten(0, 1))
        self.spread.bias = None if conv.bias is None else _frozen(conv.bias.detach())
        self.point: nn.Conv2d | None = None
        if rest.any():
            self.point = nn.Conv2d(m, n, 1, conv.stride, bias=False, device="meta")  # type: ignore[arg-type]
            self.point.weight = _frozen(rest[:, :, kh // 2, kw // 2][..., None, None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, H, W) to (B, N, H', W')."""
        return self.spread(x) if self.point is None else self.spread(x) + self.point(x)


def residues(channels: int, groups: int) -> Order:
    """The order 0, G, 2G ... 1, G + 1 ... of `channels`; None where G does not divide them."""
    return None if channels % groups else torch.arange(channels).reshape(-1, groups).T.flatten()


def divisors(units: Iterable[Unit]) -> list[int]:
    """The numbers of groups worth trying: powers of two that divide the g of some SSC layer (its p, for 1 x 1)."""
    layers = [unit.layer for unit in units if isinstance(unit.layer, SSCConv2d)]
    spacings = {layer.pattern[3] or layer.pattern[4] for layer in layers}
    return [groups for groups in (2, 4, 8, 16, 32, 64) if any(spacing % groups == 0 for spacing in spacings)]


def splits(conv: nn.Module, groups: int) -> bool:
    """Whether `conv`, its channels in their own order, is a convolution of `groups` interleaved groups and a 1 x 1."""
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
    """Fold residue-major orders of `groups` through `graph`, in which each unit is in its plain form, and put an
    `Interleaved` in the place of the layers `split`. Raises Unfit."""
    orders: dict[fx.Node, Order] = {}
    chosen = set(split)
    for node in graph.graph.nodes:
        given = [orders[other] for other in node.all_input_nodes]
        layer = module_of(node, graph)
        if node.target in units and node.op == "call_module" and isinstance(layer, nn.Conv2d):
            orders[node] = _reorder(layer, given[0], groups)
            if node.target in chosen:
                graph.set_submodule(str(node.target), Interleaved(layer, groups))
        elif node.target in units and isinstance(layer, nn.Linear):
            if given[0] is not None:
                layer.weight = _frozen(layer.weight.detach()[..., given[0]])
            orders[node] = None
        else:
            orders[node] = _passed(node, layer, given)


def _reorder(conv: nn.Conv2d, given: Order, groups: int) -> Order:
    """Fold the order of the input, and one of the output, into `conv`; returns the latter."""
    depthwise = conv.groups == conv.in_channels == conv.out_channels
    if conv.groups > 1 and not depthwise and given is not None:
        raise Unfit("a grouped convolution")
    made = given if depthwise else residues(conv.out_channels, groups) if conv.groups == 1 else None
    weight = conv.weight.detach()
    if given is not None and not depthwise:
        weight = weight[:, given]
    if made is not None:
        weight = weight[made]
        conv.bias = None if conv.bias is None else _frozen(conv.bias.detach()[made])
    conv.weight = _frozen(weight)
    return made


def _passed(node: fx.Node, layer: nn.Module | None, given: list[Order]) -> Order:
    """The order of what `node` gives, where it treats each channel alone."""
    if all(order is None for order in given):
        return None
    first = given[0]
    if first is None or any(other is None or not torch.equal(first, other) for other in given[1:]):
        raise Unfit("maps of different orders meet")
    alone = isinstance(layer, POOLS | ELEMENTWISE | nn.Dropout | nn.Identity)
    called = node.op == "call_function" and node.target in FUNCTIONS
    named = getattr(node.target, "__name__", str(node.target))
    inner = shape_of(node.all_input_nodes[0])
    flat = named in ("flatten", "mean") or isinstance(layer, nn.Flatten)
    pooled = flat and len(shape_of(node)) == 2 and shape_of(node)[1] == inner[1]
    if alone or called or pooled or named in ("adaptive_avg_pool2d", "stochastic_depth"):
        return first
    raise Unfit(f"the operator {node.name}")


def _slices(channels: int, groups: int) -> list[slice]:
    width = channels // groups
    return [slice(index * width, (index + 1) * width) for index in range(groups)]


def _frozen(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values.clone(memory_format=torch.contiguous_format), requires_grad=False)
