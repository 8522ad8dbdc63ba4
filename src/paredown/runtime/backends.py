"""The backends that run one unit alone; `interleaved` also rewrites the layers around it (see `interleaved`)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from paredown.core.compressed import CompressedLayer
from paredown.layers.factorised.branches import Sum
from paredown.layers.masked import MaskedLinear
from paredown.layers.sparse import SparseLinear
from paredown.runtime.blocked_layers import SparseConv2d
from paredown.runtime.gathered import GatheredConv2d
from paredown.runtime.pixel_layers import PixelConv2d
from paredown.runtime.units import Unit

BACKENDS = ("plain", "dense", "sparse", "native", "pixels", "triton", "interleaved")


def plain(unit: Unit) -> nn.Module:
    """Return the deployed layer (`core.deploy`) with the batch norm folded into its last module."""
    return _folded(copy.deepcopy(deployed_layer(unit.layer)), unit.norm).eval()


def dense(unit: Unit, twin: Callable[[], nn.Module]) -> nn.Module | None:
    """Return the product of a low-rank layer's factors as one layer with the geometry of `twin()`, the layer of the
    dense network; None for a layer without factors."""
    layer = unit.layer
    is_dense = isinstance(deployed_layer(layer), nn.Conv2d | nn.Linear)
    if is_dense or not isinstance(layer, CompressedLayer) or not hasattr(layer, "effective_weight"):
        return None
    product = copy.deepcopy(twin())
    if not isinstance(product, nn.Conv2d | nn.Linear):
        return None
    weight: Tensor = layer.effective_weight()  # type: ignore[operator]
    product.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
    bias = _bias(deployed_layer(layer))
    product.bias = None if bias is None else nn.Parameter(bias.detach().clone())
    return _folded(product, unit.norm).eval()


def sparse(unit: Unit) -> nn.Module | None:
    """Return a masked linear layer as a CSR matrix, None for any other layer."""
    if not isinstance(unit.layer, MaskedLinear):
        return None
    masked = deployed_layer(unit.layer)
    linear = _folded(masked, unit.norm)
    return SparseLinear(linear.weight, masked.weight != 0, linear.bias).eval()  # type: ignore[arg-type]


def native(unit: Unit) -> nn.Module | None:
    """Return the layer on blocks of images with the CPU kernel, None unless it deploys as convolutions in sequence."""
    return _in_sequence([SparseConv2d(conv) for conv in _convolutions(unit)])


def pixels(unit: Unit) -> nn.Module | None:
    """Return the layer with the CPU kernel's form for few images, None unless it deploys as convolutions in sequence,
    of stride 1."""
    convs = _convolutions(unit)
    return None if any(set(conv.stride) != {1} for conv in convs) else _in_sequence([PixelConv2d(c) for c in convs])


def triton(unit: Unit) -> GatheredConv2d | None:
    """Return the layer with the Triton kernel, None unless it deploys as one convolution that has weights of zero."""
    convs = _convolutions(unit)
    sparse = len(convs) == 1 and bool((convs[0].weight == 0).any())
    return GatheredConv2d(convs[0]) if sparse else None


def deployed_layer(layer: nn.Module) -> nn.Module:
    """Return the deployed form of `layer` without its batch norm. A masked linear layer stays dense with zeros, even
    if it deploys as a sparse matrix: whether it runs as one is the choice of a backend."""
    if isinstance(layer, MaskedLinear):
        return MaskedLinear.deployed(layer)
    return layer.deployed() if isinstance(layer, CompressedLayer) else layer


def density(unit: Unit) -> float:
    """Return the fraction of non-zero weights of the deployed layer, nan where it has no weights."""
    weights = [p for name, p in deployed_layer(unit.layer).named_parameters() if not name.endswith("bias")]
    total = sum(map(Tensor.numel, weights))
    return sum(int(p.count_nonzero()) for p in weights) / total if total else math.nan


def _convolutions(unit: Unit) -> list[nn.Conv2d]:
    """Return the convolutions in sequence that the layer deploys as, with zeros around the images; else none."""
    deployed = plain(unit)
    convs = list(deployed) if isinstance(deployed, nn.Sequential) else [deployed]
    found = [conv for conv in convs if type(conv) is nn.Conv2d and _is_supported(conv)]
    return found if len(found) == len(convs) else []


def _in_sequence(layers: Sequence[nn.Module]) -> nn.Module | None:
    return None if not layers else layers[0] if len(layers) == 1 else nn.Sequential(*layers)


def _is_supported(conv: nn.Conv2d) -> bool:
    return conv.padding_mode == "zeros" and not isinstance(conv.padding, str)


def _folded(module: nn.Module, norm: nn.Module | None) -> nn.Module:
    # a norm behind anything but a convolution or linear layer stays a separate module
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
