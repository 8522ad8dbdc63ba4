"""The exact forms that one unit can run in, but for those that take the whole network (`interleaved`, `on_blocks`)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from paredown.blueprint import CompressedLayer
from paredown.execution.blocked import SparseConv2d
from paredown.execution.graph import Unit
from paredown.layers.branches import Sum
from paredown.layers.masked import MaskedLinear
from paredown.layers.sparse import SparseLinear

FORMS = ("plain", "dense", "sparse", "native", "interleaved")


def plain(unit: Unit) -> nn.Module:
    """What `surgery.deploy` ships in the layer's place, with the batch norm folded into its last layer."""
    return _folded(copy.deepcopy(plain_of(unit.layer)), unit.norm).eval()


def dense(unit: Unit, twin: Callable[[], nn.Module]) -> nn.Module | None:
    """The factors of a low-rank layer as the one layer they make, of the geometry of `twin()`, the layer of the dense
    network; None for what has no factors."""
    layer = unit.layer
    whole = isinstance(plain_of(layer), nn.Conv2d | nn.Linear)
    if whole or not isinstance(layer, CompressedLayer) or not hasattr(layer, "effective_weight"):
        return None
    one = copy.deepcopy(twin())
    if not isinstance(one, nn.Conv2d | nn.Linear):
        return None
    weight: Tensor = layer.effective_weight()  # type: ignore[operator]
    one.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    bias = _bias(plain_of(layer))
    one.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    return _folded(one, unit.norm).eval()


def sparse(unit: Unit) -> nn.Module | None:
    """A masked linear layer as a sparse matrix by rows; None for any other layer."""
    if not isinstance(unit.layer, MaskedLinear):
        return None
    own = plain_of(unit.layer)
    linear = _folded(own, unit.norm)
    return SparseLinear(linear.weight, own.weight != 0, linear.bias).eval()  # type: ignore[arg-type]


def native(unit: Unit) -> nn.Sequential | SparseConv2d | None:
    """The layer by the native kernel, on blocks of images; None where it is anything but convolutions in a row."""
    made = plain(unit)
    convs = list(made) if isinstance(made, nn.Sequential) else [made]
    if not all(type(conv) is nn.Conv2d and _takes(conv) for conv in convs):
        return None
    layers = [SparseConv2d(conv) for conv in convs if isinstance(conv, nn.Conv2d)]
    return layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def plain_of(layer: nn.Module) -> nn.Module:
    """The layer as it ships, without its batch norm; a masked linear layer with its zeros: see `sparse`."""
    if isinstance(layer, MaskedLinear):
        return MaskedLinear.deployed(layer)
    return layer.deployed() if isinstance(layer, CompressedLayer) else layer


def density(unit: Unit) -> float:
    """The share of the layer's weights, as it ships, that are not zero; 1 where it has none."""
    weights = [p for name, p in plain_of(unit.layer).named_parameters() if not name.endswith("bias")]
    total = sum(map(Tensor.numel, weights))
    return sum(int(p.count_nonzero()) for p in weights) / total if total else math.nan


def _takes(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _folded(module: nn.Module, norm: nn.Module | None) -> nn.Module:
    """`module`, then `norm`, as one where the last layer of `module` can take it in."""
    module = module.eval()
    if norm is None:
        return module
    if type(module) is nn.Conv2d and isinstance(norm, nn.BatchNorm2d):
        return fuse_conv_bn_eval(module, norm)
    if type(module) is nn.Linear and isinstance(norm, nn.BatchNorm1d):
        return fuse_linear_bn_eval(module, norm)
    if type(module) is nn.Sequential:
        module[-1] = _folded(module[-1], norm)
        return module
    return nn.Sequential(module, copy.deepcopy(norm))


def _bias(module: nn.Module) -> Tensor | None:
    if isinstance(module, Sum):
        biases = [bias for bias in map(_bias, module) if bias is not None]
        return torch.stack(biases).sum(0) if biases else None
    if isinstance(module, nn.Sequential):
        return _bias(module[-1])
    bias: Tensor | None = getattr(module, "bias", None)
    return bias
