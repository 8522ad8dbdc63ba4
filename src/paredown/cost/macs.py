"""MACs and parameters of the deployed network, in closed form and by torch's FLOP formulas, per layer and product."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from paredown.core.compressed import CompressedLayer
from paredown.core.deploy import within
from paredown.core.unchanged import once
from paredown.cost.operators import CostError, ProductCounter
from paredown.cost.products import Product
from paredown.cost.tracing import Call, Shape, calls, run, skeleton
from paredown.layers.replaceable import is_plain


@dataclass(frozen=True)
class LayerCost:
    """Cost of one conv, linear or compressed layer: MACs over all its calls, and active weights.

    Shapes are those of the first call without the batch, () for a layer that is never called. A weight that two layers
    share is counted for the first. `calls` are the batch and the input shape of each call. The matrix products of one
    operator outside of any layer are a row too, MODULE:OPERATOR, without shapes and weights.
    """

    name: str
    kind: str
    input_shape: Shape
    output_shape: Shape
    macs: int
    weights: int
    calls: tuple[tuple[int, Shape], ...] = ()


@dataclass(frozen=True)
class Cost:
    """Cost for one input: `macs` of all matrix products, `weights` of the conv and linear layers, `params` of all
    modules (frozen too)."""

    macs: int
    params: int
    weights: int
    layers: tuple[LayerCost, ...]


@once
def count(model: nn.Module, input_shape: Shape) -> Cost:
    """Count the cost of the deployed form of `model` for one input of `input_shape` (channels, height, width).

    Multiplications by structural zeros are not counted (the field's convention for masks); `cost.latency` measures
    whether they take time. Raise CostError where torch's counter disagrees, naming the layer, and for an operator that
    neither counter knows and that is not known to be free of multiply-adds; UserError if the model does not accept such
    an input.
    """
    found = _layers(model)
    deployed = skeleton(model)
    products = _by_owner(deployed, found, input_shape)
    layers = (*_closed_form(model, found, products, input_shape), *_outside(products, found))
    modules = dict(deployed.named_modules())
    for layer in layers:
        counted = _torchs(products.get(layer.name, ()), found.get(layer.name), modules)
        if counted != layer.macs:
            where = layer.name or layer.kind
            raise CostError(f"{where}: closed form says {layer.macs} MACs, torch's counter {counted}")
    weights = sum(layer.weights for layer in layers)
    params = _params(model, found)
    held = sum(int(parameter.count_nonzero()) for parameter in deployed.parameters())
    if held != params:
        raise CostError(f"closed form says {params} parameters, the deployed network holds {held}")
    return Cost(sum(layer.macs for layer in layers), params, weights, layers)


def compare(cost: Cost, dense: Cost) -> dict[str, float]:
    """Return the metrics `cost/...` of docs/architecture.md for `cost` relative to `dense`."""
    return {
        "cost/macs": cost.macs,
        "cost/params": cost.params,
        "cost/weights": cost.weights,
        "cost/dense_macs": dense.macs,
        "cost/dense_params": dense.params,
        "cost/speed_up": dense.macs / cost.macs,
        "cost/compression": dense.params / cost.params,
        "cost/sparsity": 1 - cost.weights / dense.weights,
    }


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return conv, linear and compressed layers by name, without the submodules of compressed layers."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        outer = _owner(name, found)
        inside = outer is not None and isinstance(found[outer], CompressedLayer)
        if isinstance(module, CompressedLayer | nn.Conv2d | nn.Linear) and not inside:
            found[name] = module
    return found


def _owner(name: str, layers: Iterable[str]) -> str | None:
    """Return the layer that the module `name` is or is part of."""
    return next((layer for layer in layers if within(name, layer)), None)


def _by_owner(deployed: nn.Module, layers: Mapping[str, nn.Module], input_shape: Shape) -> dict[str, list[Product]]:
    """Return the matrix products of a skeleton by layer, those outside of any by MODULE:OPERATOR."""
    counter = ProductCounter(deployed)
    with counter.watch():
        run(deployed, input_shape)
    rewritten = [name for name, layer in layers.items() if isinstance(layer, CompressedLayer)]
    found: dict[str, list[Product]] = {}
    for product in counter.products:
        owner = product.where if product.where in layers else _owner(product.where, rewritten)
        outside = f"{product.where}:{product.operator}" if product.where else product.operator
        found.setdefault(outside if owner is None else owner, []).append(product)
    return found


def _closed_form(
    model: nn.Module, layers: Mapping[str, nn.Module], products: Mapping[str, Sequence[Product]], input_shape: Shape
) -> list[LayerCost]:
    by_name: dict[str, list[Call]] = {name: [] for name in layers}
    for call in calls(model, layers, input_shape):
        by_name[call.name].append(call)
    weights = _weights(layers)
    costs = []
    for name, layer in layers.items():
        made = by_name[name]
        shapes = (made[0].input_shape, made[0].output_shape) if made else ((), ())
        macs = sum(map(_macs, made)) if _known(layer) else sum(map(_operators, products.get(name, ())))
        each = tuple((call.batch, call.input_shape) for call in made)
        costs.append(LayerCost(name, type(layer).__name__, *shapes, macs, weights[name], each))
    return costs


def _outside(products: Mapping[str, Sequence[Product]], layers: Mapping[str, nn.Module]) -> list[LayerCost]:
    """Return the rows of the products outside of `layers`."""
    rows = {name: made for name, made in products.items() if name not in layers}
    return [LayerCost(name, made[0].operator, (), (), sum(map(_operators, made)), 0) for name, made in rows.items()]


def _known(layer: nn.Module) -> bool:
    """Return whether the closed form of a layer's calls holds: it reports its own, or computes as torch's does."""
    return isinstance(layer, CompressedLayer) or is_plain(layer)


def _operators(product: Product) -> int:
    """Return the closed form of an operator, or where it has none torch's number."""
    return product.macs if product.closed_form is None else product.closed_form


def _torchs(products: Sequence[Product], layer: nn.Module | None, modules: Mapping[str, nn.Module]) -> int:
    """Sum torch's numbers for the products of `layer`, each times the fraction of its module's weights that are not
    zero; in full outside of any layer (None) and where a layer's forward pass makes other products too."""
    if layer is None or not _known(layer):
        return sum(product.macs for product in products)
    return sum(_structural(product.macs, modules[product.where]) for product in products)


def _structural(macs: int, module: nn.Module) -> int:
    """Return those of `macs` that are by weights of `module` that are not zero; all where it is no conv or linear."""
    if not isinstance(module, nn.Conv2d | nn.Linear):
        return macs
    return macs * int(module.weight.count_nonzero()) // module.weight.numel()


def _macs(call: Call) -> int:
    layer = call.module
    if isinstance(layer, CompressedLayer):
        return call.batch * layer.macs(call.input_shape)
    # each weight is used once per output position of a convolution, once per input row of a linear layer
    positions = call.output_shape[1:] if isinstance(layer, nn.Conv2d) else call.output_shape[:-1]
    return call.batch * call.weight.numel() * math.prod(positions)


def _weights(layers: Mapping[str, nn.Module]) -> dict[str, int]:
    seen: dict[int, Tensor] = {}
    found = {}
    for name, layer in layers.items():
        if isinstance(layer, CompressedLayer):
            found[name] = layer.active_weights()
        else:
            weight: Tensor = layer.weight  # type: ignore[assignment]
            found[name] = 0 if id(weight) in seen else weight.numel()
            seen[id(weight)] = weight
    return found


def _params(model: nn.Module, layers: Mapping[str, nn.Module]) -> int:
    """Count every parameter once; of a compressed layer, its active weights and its biases."""
    rewritten = [layer for layer in layers.values() if isinstance(layer, CompressedLayer)]
    stored = {id(p) for layer in rewritten for name, p in layer.named_parameters() if not name.endswith("bias")}
    others = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in stored)
    return others + sum(layer.active_weights() for layer in rewritten)
