"""MACs and parameters of the network that ships, in closed form per layer and by torch's own counter."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

from paredown.blueprint import CompressedLayer
from paredown.cost.operators import COUNTED, FREE
from paredown.surgery.deploy import deploy

Shape = tuple[int, ...]


class CostError(RuntimeError):
    """The two counters disagree, or the network does something that no counter knows."""


@dataclass(frozen=True)
class LayerCost:
    """One conv, linear or rewritten layer: shapes without the batch, MACs over all its calls, active weights."""

    name: str
    kind: str
    input_shape: Shape
    output_shape: Shape
    macs: int
    weights: int


@dataclass(frozen=True)
class Cost:
    """`macs` and `weights` of the conv and linear layers, `params` of everything trainable; for one input."""

    macs: int
    params: int
    weights: int
    layers: tuple[LayerCost, ...]


def count(model: nn.Module, input_shape: Shape) -> Cost:
    """What one input of `input_shape` (channels, height, width) costs the deployed form of `model`.

    Multiplications by structural zeros are not counted (the field's convention for masks); whether they cost time
    is for `cost.latency` to tell. Raises CostError where torch's counter says otherwise, naming the layer, and for an
    operator that is neither counted nor known to need no multiply-adds.
    """
    layers = _closed_form(model, input_shape)
    macs, params = _counted(model, input_shape, {layer.name for layer in layers})
    for layer in layers:
        if macs[layer.name] != layer.macs:
            raise CostError(f"{layer.name}: closed form says {layer.macs} MACs, torch's counter {macs[layer.name]}")
    own = sum(layer.weights for layer in layers) + _other_params(model, layers)
    if own != params:
        raise CostError(f"closed form says {own} parameters, the deployed network holds {params}")
    return Cost(sum(layer.macs for layer in layers), params, sum(layer.weights for layer in layers), layers)


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


def _closed_form(model: nn.Module, input_shape: Shape) -> tuple[LayerCost, ...]:
    calls: dict[str, list[tuple[Shape, Shape]]] = {name: [] for name in _layers(model)}
    hooks = [
        layer.register_forward_hook(
            lambda _, inputs, output, name=name: calls[name].append((inputs[0].shape[1:], output.shape[1:]))
        )
        for name, layer in _layers(model).items()
    ]
    try:
        with _evaluating(model), OperatorCheck():
            model(_zeros(model, input_shape))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(_layer_cost(name, layer, calls[name]) for name, layer in _layers(model).items() if calls[name])


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    """Conv, linear and rewritten layers by name; what lies inside a rewritten layer is its own affair."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, at in found.items() if isinstance(at, CompressedLayer))
        if isinstance(module, CompressedLayer | nn.Conv2d | nn.Linear) and not inside:
            found[name] = module
    return found


def _layer_cost(name: str, layer: nn.Module, calls: list[tuple[Shape, Shape]]) -> LayerCost:
    shapes = (tuple(calls[0][0]), tuple(calls[0][1]))
    if isinstance(layer, CompressedLayer):
        macs, weights = sum(layer.macs(tuple(given)) for given, _ in calls), layer.active_weights()
    else:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        weights = weight.numel()
        # each weight of a conv meets every output position once, each of a linear layer every row of its input
        positions = [out[1:] if isinstance(layer, nn.Conv2d) else out[:-1] for _, out in calls]
        macs = sum(weights * math.prod(shape) for shape in positions)
    return LayerCost(name, type(layer).__name__, *shapes, macs, weights)


def _other_params(model: nn.Module, layers: tuple[LayerCost, ...]) -> int:
    seen = {layer.name for layer in layers}
    total = 0
    for name, parameter in model.named_parameters():
        outer = next((layer for layer in seen if name.startswith(f"{layer}.") or not layer), None)
        total += parameter.numel() if outer is None or name.endswith("bias") else 0
    return total


def _counted(model: nn.Module, input_shape: Shape, names: set[str]) -> tuple[dict[str, int], int]:
    """Torch's count per layer of the deployed copy whose parameters are all one, so that the zeros in it are the
    structural ones; each layer's FLOPs / 2 times its share of non-zero weights."""
    ones = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in ones.parameters():
            parameter.fill_(1.0)
    deployed = deploy(ones)
    with FlopCounterMode(display=False) as counter, _evaluating(deployed):
        deployed(_zeros(deployed, input_shape))
    flops = {name: sum(found.values()) for name, found in counter.get_flop_counts().items()}
    root = type(deployed).__name__
    macs = dict.fromkeys(names, 0)
    leaves = 0
    for name, module in deployed.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            found = flops.get(f"{root}.{name}" if name else root, 0)
            leaves += found
            owner = next((layer for layer in names if name == layer or name.startswith(f"{layer}.") or not layer), None)
            if owner is None and found:
                raise CostError(f"{name}: torch's counter finds {found // 2} MACs, the closed form no layer")
            if owner is not None:
                macs[owner] += found // 2 * int(module.weight.count_nonzero()) // module.weight.numel()
    if leaves != flops.get("Global", 0):
        raise CostError(f"{_beyond(flops, deployed, root)}: a matrix product outside of conv and linear layers")
    return macs, sum(int(parameter.count_nonzero()) for parameter in deployed.parameters())


def _beyond(flops: dict[str, int], deployed: nn.Module, root: str) -> str:
    """The innermost module with FLOPs of its own that is neither conv nor linear."""
    inner = [name for name, module in deployed.named_modules() if not isinstance(module, nn.Conv2d | nn.Linear)]
    for name in sorted(inner, key=lambda name: -name.count(".") - bool(name)):
        full = f"{root}.{name}" if name else root
        children = [f"{full}.{child}" for child, _ in deployed.get_submodule(name).named_children()]
        if flops.get(full, 0) != sum(flops.get(child, 0) for child in children):
            return name or root
    return root


class OperatorCheck(TorchDispatchMode):
    """Raises CostError at the first operator that is neither counted nor known to be free of multiply-adds."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = ModuleTracker()

    def __enter__(self) -> OperatorCheck:
        self.tracker.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.tracker.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._overloadpacket._qualified_op_name.removeprefix("aten::")
        if name.removesuffix("_") not in FREE and name not in COUNTED:
            where = max(self.tracker.parents, key=len)
            raise CostError(f"{where}: no counter knows the operator {name!r} (cost/operators.py lists those known)")
        return func(*args, **(kwargs or {}))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """No gradients, eval mode, and every module's own mode afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def _zeros(model: nn.Module, input_shape: Shape) -> Tensor:
    like = next(model.parameters())
    return torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
