"""Counting conventions of other papers, by name, for comparison with published numbers (see docs/cost.md)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from torch import Tensor, nn

from paredown.core.errors import UserError, nearest
from paredown.cost.tracing import Call, Shape, calls, skeleton

T = TypeVar("T")
SHORTCUTS = ("shortcut", "downsample")  # module names in this project's and torchvision's residual networks


@dataclass(frozen=True)
class Rule:
    """A counting convention: the operations of one call by type of module; other modules count nothing."""

    description: str
    source: str
    operations: Mapping[type[nn.Module], Callable[[Call], int]]
    shortcuts: bool = True


def macs_under(rule: str, network: nn.Module, input_shape: Shape) -> int:
    """Count the operations of the deployed `network` for one image of `input_shape` (channels, height, width) by the
    convention `rule`, a name in RULES. Raise UserError for an unknown rule."""
    return _counted(_find(rule, RULES, "rule"), skeleton(network), input_shape)


def _counted(chosen: Rule, deployed: nn.Module, input_shape: Shape) -> int:
    kinds = tuple(chosen.operations)
    counted = {name: module for name, module in deployed.named_modules() if isinstance(module, kinds)}
    if not chosen.shortcuts:
        counted = {name: module for name, module in counted.items() if not _on_shortcut(name)}
    return sum(_operations(chosen, call) for call in calls(deployed, counted, input_shape))


def speed_up_under(rule: str, network: nn.Module, dense: nn.Module, input_shape: Shape) -> float:
    """Return the speed-up by the convention `rule`: dense operations / operations."""
    return macs_under(rule, dense, input_shape) / macs_under(rule, network, input_shape)


def speed_ups(network: nn.Module, dense: nn.Module, input_shape: Shape) -> dict[str, float]:
    """Return `speed_up_under` each convention by its name, without those that count nothing in either network."""
    bare, whole = skeleton(network), skeleton(dense)
    counted = {
        name: (_counted(rule, whole, input_shape), _counted(rule, bare, input_shape)) for name, rule in RULES.items()
    }
    return {name: before / after for name, (before, after) in counted.items() if before and after}


def sparsity_under(scope: str, network: nn.Module, dense: nn.Module) -> float:
    """Return the fraction of the weights of `dense` in `scope`, a name in SCOPES, that `network` has removed."""
    kinds = _find(scope, SCOPES, "scope")
    return 1 - _weights(skeleton(network), kinds) / _weights(skeleton(dense), kinds)


def _find(name: str, table: Mapping[str, T], what: str) -> T:
    if name not in table:
        raise UserError(f"no {what} {name!r}: {nearest(name, table)}")
    return table[name]


def _on_shortcut(name: str) -> bool:
    return any(part in SHORTCUTS for part in name.split("."))


def _operations(rule: Rule, call: Call) -> int:
    count = next(count for kind, count in rule.operations.items() if isinstance(call.module, kind))
    return call.batch * count(call)


def _weights(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> int:
    weights = [cast(Tensor, module.weight) for module in network.modules() if isinstance(module, kinds)]
    shared_once = {id(weight): weight for weight in weights}.values()
    return sum(int(weight.count_nonzero()) for weight in shared_once)


def _inputs(call: Call) -> int:
    return math.prod(call.input_shape)


def _outputs(call: Call) -> int:
    return math.prod(call.output_shape)


def _dense(call: Call) -> int:
    # zero weights too
    return call.weight.numel() * _outputs(call) // len(call.weight)


def _active(call: Call) -> int:
    return int(call.weight.count_nonzero()) * _outputs(call) // len(call.weight)


def _bias(call: Call) -> int:
    return 0 if call.module.bias is None else _outputs(call)


def _window(call: Call) -> int:
    size = cast("int | tuple[int, int]", call.module.kernel_size)
    return _outputs(call) * (math.prod(size) if isinstance(size, tuple) else size**2)


RULES: dict[str, Rule] = {
    "conv_fc": Rule(
        "multiply-adds of convolutions and linear layers by weights that are not structurally zero",
        "this project's cost/macs of layers; C-SGD counts so too",
        {nn.Conv2d: _active, nn.Linear: _active},
    ),
    "conv": Rule(
        "as conv_fc without the linear layers",
        "SVD training (arXiv 2004.09031), TRP (arXiv 2004.14566)",
        {nn.Conv2d: _active},
    ),
    "sfp": Rule(
        "as conv without the convolutions on shortcuts",
        "SFP (arXiv 1808.06866), whose CIFAR networks have none there",
        {nn.Conv2d: _active},
        shortcuts=False,
    ),
    "cnn_fcf": Rule(
        "active weights and biases of convolutions and linear layers, inputs of batch norm and ReLU modules, "
        "inputs of every pooling window",
        "CNN-FCF (CVPR 2019), the counter in its authors' code",
        {
            nn.Conv2d: lambda call: _active(call) + _bias(call),
            nn.Linear: lambda call: _active(call) + _bias(call),
            nn.BatchNorm2d: _inputs,
            nn.ReLU: _inputs,
            nn.MaxPool2d: _window,
            nn.AvgPool2d: _window,
            nn.AdaptiveAvgPool2d: _inputs,  # its windows tile the input
        },
    ),
    "thop": Rule(
        "dense weights (zeros too) and biases of convolutions, linear layers without bias, 2 per batch norm input, "
        "window + 1 per adaptive average",
        "thop as pinned by SVD-NAS (arXiv 2208.10404), half of its printed FLOPs",
        {
            nn.Conv2d: lambda call: _dense(call) + _bias(call),
            nn.Linear: _dense,
            nn.BatchNorm2d: lambda call: 2 * _inputs(call),
            nn.AvgPool2d: _outputs,
            nn.AdaptiveAvgPool2d: lambda call: _inputs(call) + _outputs(call),
        },
    ),
}
SCOPES: dict[str, tuple[type[nn.Module], ...]] = {"conv_fc": (nn.Conv2d, nn.Linear), "conv_only": (nn.Conv2d,)}
