"""Deployment of a trained network: plain torch modules, proven to compute the same thing."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from paredown.core.compressed import CompressedLayer


class DeployError(RuntimeError):
    """The deployed network computes something else than the trained one."""


def deploy(module: nn.Module) -> nn.Module:
    """Copy `module` in eval mode with every CompressedLayer in its `deployed()` form, once for all its names. Nothing
    is shared with `module`, and torch's random generators stay where they were."""
    used = sorted({parameter.get_device() for parameter in module.parameters() if parameter.is_cuda})
    with torch.no_grad(), torch.random.fork_rng(devices=used):  # a fresh module draws weights before it is given ours
        layers = compressed_layers(module).values()
        # for deepcopy these layers are copied already: it puts the plain form wherever one is referred to
        plain: dict[int, object] = {id(layer): copy.deepcopy(layer.deployed()) for layer in layers}
        return copy.deepcopy(module, plain).eval()


def compressed_layers(module: nn.Module) -> dict[str, CompressedLayer]:
    """Find the outermost CompressedLayers of `module` by name; a shared one under each of its names."""
    found: dict[str, CompressedLayer] = {}
    for name, layer in module.named_modules(remove_duplicate=False):
        if isinstance(layer, CompressedLayer) and not any(within(name, outer) for outer in found):
            found[name] = layer
    return found


def within(name: str, outer: str) -> bool:
    """Tell whether the module called `name` is `outer` or lies inside it ("" is the whole network)."""
    return not outer or name == outer or name.startswith(f"{outer}.")


def prove_equal(module: nn.Module, deployed: nn.Module, input_shape: tuple[int, ...], tolerance: float = 1e-9) -> float:
    """Return the largest difference of the two networks' outputs on random inputs in float64, relative to the largest.

    Each rewritten or parametrised layer is compared with its counterpart on the same input too, so that no dead layer
    behind it hides a difference. Raise DeployError above `tolerance`, naming the first layer that differs.
    """
    inputs = torch.randn(4, *input_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    trained, shipped = (copy.deepcopy(network).cpu().double().eval() for network in (module, deployed))
    counterparts = dict(shipped.named_modules())
    for name, layer in _comparable(trained).items():
        if name in counterparts:
            layer.register_forward_hook(_comparing(name, counterparts[name], tolerance))
    with torch.no_grad():
        return _difference("the network's output", trained(inputs), shipped(inputs), tolerance)


def _comparable(network: nn.Module) -> dict[str, nn.Module]:
    """Find rewritten layers, and plain ones with parameters: these never work in place on their input."""
    rewritten = compressed_layers(network)
    plain = {
        name: layer
        for name, layer in network.named_modules()
        if not list(layer.children()) and list(layer.parameters()) and not any(within(name, r) for r in rewritten)
    }
    return {**rewritten, **plain}


def _comparing(name: str, counterpart: nn.Module, tolerance: float) -> Any:
    def compare(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _difference(f"layer {name or 'the network itself'}", output, counterpart(*inputs), tolerance)

    return compare


def relative_difference(expected: Tensor, found: Tensor) -> float:
    """Return the largest difference between the two, which have one shape, relative to the largest of `expected`."""
    return float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-30))


def _difference(what: str, trained: Tensor, deployed: Tensor, tolerance: float) -> float:
    if trained.shape != deployed.shape:
        raise DeployError(f"deployed, {what} has shape {tuple(deployed.shape)} instead of {tuple(trained.shape)}")
    difference = relative_difference(trained, deployed)
    if not difference <= tolerance:  # also where it is not a number
        raise DeployError(f"deployed, {what} differs by {difference:.2e} of its largest value")
    return difference
