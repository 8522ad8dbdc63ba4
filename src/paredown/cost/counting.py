"""MACs and parameters of the network that ships, in closed form per layer and by torch's own counter."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from paredown.blueprint import CompressedLayer
from paredown.cost.operators import CostError, OperatorCheck
from paredown.cost.tracing import Call, Shape, calls, run, skeleton
from paredown.surgery.deploy import within


@dataclass(frozen=True)
class LayerCost:
    """One conv, linear or rewritten layer: shapes without the batch, MACs over all its calls, active weights.

    The shapes are those of its first call, () for a layer that is never called. A weight that two layers share
    belongs to the first.
    """

    name: str
    kind: str
    input_shape: Shape
    output_shape: Shape
    macs: int
    weights: int


@dataclass(frozen=True)
class Cost:
    """`macs` and `weights` of the conv and linear layers, `params` of everything trainable (frozen or not); for one
    input."""

    macs: int
    params: int
    weights: int
    layers: tuple[LayerCost, ...]


def count(model: nn.Module, input_shape: Shape) -> Cost:
    """What one input of `input_shape` (channels, height, width) costs the deployed form of `model`.

    Multiplications by structural zeros are not counted (the field's convention for masks); whether they cost time
    is for `cost.latency` to tell. Raises CostError where torch's counter says otherwise, naming the layer, and for an
    operator that is neither counted nor known to need no multiply-adds; UserError where the model takes no such input.
    """
    found = _layers(model)
    layers = _closed_form(model, found, input_shape)
    deployed = skeleton(model)
    macs = _counted(deployed, found, input_shape)
    for layer in layers:
        if macs[layer.name] != layer.macs:
            where = layer.name or layer.kind
            raise CostError(f"{where}: closed form says {layer.macs} MACs, torch's counter {macs[layer.name]}")
    weights = sum(layer.weights for layer in layers)
    params = _params(model, found)
    held = sum(int(parameter.count_nonzero()) for parameter in deployed.parameters())
    if held != params:
        raise CostError(f"closed form says {params} parameters, the deployed network holds {held}")
    return Cost(sum(layer.macs for layer in layers), params, weights, layers)


def compare(cost: Cost, dense: Cost) -> dict[str, float]:
    """The metrics of `cost` against `dense`, by their names in docs/architecture.md."""
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
    """Conv, linear and rewritten layers by name; what lies inside a rewritten layer is its own affair."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        outer = _owner(name, found)
        inside = outer is not None and isinstance(found[outer], CompressedLayer)
        if isinstance(module, CompressedLayer | nn.Conv2d | nn.Linear) and not inside:
            found[name] = module
    return found


def _owner(name: str, layers: Iterable[str]) -> str | None:
    """The layer that the module `name` is or lies in."""
    return next((layer for layer in layers if within(name, layer)), None)


def _closed_form(model: nn.Module, layers: Mapping[str, nn.Module], input_shape: Shape) -> tuple[LayerCost, ...]:
    by_name: dict[str, list[Call]] = {name: [] for name in layers}
    for call in calls(model, layers, input_shape):
        by_name[call.name].append(call)
    weights = _weights(layers)
    costs = []
    for name, layer in layers.items():
        made = by_name[name]
        shapes = (made[0].input_shape, made[0].output_shape) if made else ((), ())
        costs.append(LayerCost(name, type(layer).__name__, *shapes, sum(map(_macs, made)), weights[name]))
    return tuple(costs)


def _macs(call: Call) -> int:
    layer = call.module
    if isinstance(layer, CompressedLayer):
        return call.batch * layer.macs(call.input_shape)
    # each weight of a conv meets every output position once, each of a linear layer every row of its input
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
    """Parameters, each once; of a rewritten layer its active weights and its biases."""
    rewritten = [layer for layer in layers.values() if isinstance(layer, CompressedLayer)]
    stored = {id(p) for layer in rewritten for name, p in layer.named_parameters() if not name.endswith("bias")}
    others = sum(parameter.numel() for parameter in model.parameters() if id(parameter) not in stored)
    return others + sum(layer.active_weights() for layer in rewritten)


def _counted(deployed: nn.Module, layers: Iterable[str], input_shape: Shape) -> dict[str, int]:
    """Torch's count for each of `layers` of a skeleton: its FLOPs / 2 times the share of weights that are not zero."""
    with FlopCounterMode(display=False) as counter, OperatorCheck():
        run(deployed, input_shape)
    flops = {name: sum(by_operator.values()) for name, by_operator in counter.get_flop_counts().items()}
    macs = dict.fromkeys(layers, 0)
    for name, module in deployed.named_modules():
        own = _own_flops(name, module, deployed, flops)
        owner = _owner(name, macs)
        if own and (owner is None or not isinstance(module, nn.Conv2d | nn.Linear)):
            where = name or type(deployed).__name__
            raise CostError(f"{where}: {own // 2} MACs in a matrix product outside of Conv2d and Linear modules")
        if own and owner is not None:
            weight = module.weight
            macs[owner] += own // 2 * int(weight.count_nonzero()) // weight.numel()
    return macs


def _own_flops(name: str, module: nn.Module, root: nn.Module, flops: Mapping[str, int]) -> int:
    """What `module` does itself, not its children."""
    full = ".".join([type(root).__name__, *([name] if name else [])])
    return flops.get(full, 0) - sum(flops.get(f"{full}.{child}", 0) for child, _ in module.named_children())
