"""From the trained network to the one that ships: plain torch modules, proven to compute the same thing."""

from __future__ import annotations

import copy

import torch
from torch import nn

from paredown.blueprint import CompressedLayer


class DeployError(RuntimeError):
    """The deployed network computes something else than the trained one."""


def deploy(module: nn.Module) -> nn.Module:
    """A copy of `module` in eval mode in which every CompressedLayer is its `deployed()` form."""
    if isinstance(module, CompressedLayer):
        return module.deployed().eval()
    deployed = copy.deepcopy(module).eval()
    for name, layer in compressed_layers(module).items():
        deployed.set_submodule(name, layer.deployed().eval())
    return deployed


def compressed_layers(module: nn.Module) -> dict[str, CompressedLayer]:
    """The CompressedLayers of `module` by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, CompressedLayer)}


def prove_equal(
    module: nn.Module, deployed: nn.Module, input_shape: tuple[int, ...], batch: int = 4, tolerance: float = 1e-9
) -> float:
    """The largest difference of the two networks' outputs on random inputs, in float64 and relative to the largest
    output. Raises DeployError above `tolerance`, naming the first layer that differs where both have one."""
    inputs = torch.randn(batch, *input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    exact = [copy.deepcopy(network).cpu().double().eval() for network in (module, deployed)]
    outputs = [_outputs(network, inputs) for network in exact]
    differences = {name: _difference(outputs[0][name], outputs[1][name]) for name in outputs[0] if name in outputs[1]}
    if not differences[""] <= tolerance:  # also where it is not a number
        first = next(name for name, difference in differences.items() if not difference <= tolerance)
        where = f"; the first layer that differs is {first}" if first else ""
        raise DeployError(f"the deployed network differs by {differences['']:.2e} (relative){where}")
    return differences[""]


@torch.no_grad()
def _outputs(network: nn.Module, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    outputs: dict[str, torch.Tensor] = {}

    def keep(name: str) -> nn.modules.module._forward_hook_callable:  # type: ignore[name-defined]
        return lambda module, args, output: outputs.setdefault(name, output.clone())

    for name, module in network.named_modules():
        if name:
            module.register_forward_hook(keep(name))
    final = network(inputs)
    return outputs | {"": final}


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-30))
