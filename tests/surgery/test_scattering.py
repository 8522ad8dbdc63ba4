"""Convolutions that lose filters of their own: exact, and of the cost that closed forms of the papers' networks say."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.deploy import deploy, prove_equal
from paredown.core.network import Network
from paredown.cost import count
from paredown.layers.narrow import Reading
from paredown.surgery.scattering import norms_behind, scatter, separable, taken_channels


def resnet(depth: int, shortcut: str, block: str = "basic") -> Network:
    torch.manual_seed(0)
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": depth}
    network = blueprint.create(architecture | {"shortcut": shortcut, "block": block}, (3, 32, 32))
    network.module.double()
    for layer in network.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.running_mean, *layer.parameters()):
                nn.init.normal_(tensor)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return network


def filters(network: Network, share: float, stem: bool = True) -> dict[str, list[int]]:
    """A random choice of n - floor(n (1 - share)) filters of every convolution of the main path."""
    found = {}
    for name, layer in network.module.named_modules():
        if isinstance(layer, nn.Conv2d) and "shortcut" not in name and (stem or name != "conv"):
            kept = layer.out_channels - int(layer.out_channels * (1 - share) + 1e-9)
            found[name] = sorted(torch.randperm(layer.out_channels)[:kept].tolist())
    return found


def masked(network: Network, keep: dict[str, list[int]], reads: str) -> nn.Module:
    module = copy.deepcopy(network.module)
    norms = norms_behind(network, list(keep))
    for name, kept in keep.items():
        for layer in (module.get_submodule(name), module.get_submodule(norms[name])):
            for parameter in layer.parameters():
                gone = [i for i in range(len(parameter)) if i not in kept]
                parameter.data[gone] = 0.0
    if reads == "previous":  # a block's first convolution reads what the block before wrote
        last = None
        for name, layer in module.named_modules():
            if isinstance(layer, nn.Conv2d) and name in keep:
                if name.endswith("conv1") and last is not None:
                    layer.weight.data[:, [i for i in range(layer.in_channels) if i not in keep[last]]] = 0.0
                last = name
    return module


@pytest.mark.parametrize("reads", ["full", "previous"])
@pytest.mark.parametrize(
    ("shortcut", "block"), [("A", "basic"), ("B", "basic"), ("B", "bottleneck"), ("A", "bottleneck")]
)
def test_scattered_equals_masked(shortcut: str, block: str, reads: str, tmp_path: Path) -> None:
    network = resnet(20, shortcut, block)
    keep = filters(network, 0.7)
    reference = masked(network, keep, reads).eval()
    scatter(network, keep, reads)
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        before, after = reference(images), network.module.eval()(images)
        lasts = network.module.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    assert float((before - after).abs().max() / before.abs().max()) < 1e-12
    assert float((lasts - after).abs().max() / before.abs().max()) < 1e-12
    assert prove_equal(network.module, deploy(network.module), network.input_shape) == 0.0
    blueprint.save(network, tmp_path)
    again = blueprint.read(tmp_path).module.double()
    assert all(
        torch.equal(again.state_dict()[k].long(), v) for k, v in network.module.state_dict().items() if "index" in k
    )


@pytest.mark.parametrize(
    ("shortcut", "share", "stem", "reads", "macs", "params"),
    [  # multiply-adds of convolutions and the classifier; He et al. 2018's and Li et al. 2019's networks
        ("A", 0.7, True, "full", 24_721_344 + 640, 160_916),
        ("A", 0.6, True, "full", 19_585_728 + 640, 130_675),
        ("A", 0.75, False, "full", 26_542_080 + 640, 175_354),
        ("A", 0.75, False, "previous", 23_445_504 + 640, 152_890),
        ("B", 0.75, False, "previous", 23_708_288, 155_642),
    ],
)
def test_costs_in_closed_form(shortcut: str, share: float, stem: bool, reads: str, macs: int, params: int) -> None:
    network = resnet(20, shortcut)
    keep = filters(network, share, stem)
    scatter(network, keep, reads)
    cost = count(network.module, network.input_shape)
    assert (cost.macs, cost.params) == (macs, params)


def test_the_first_block_takes_the_stems_filters() -> None:
    network = resnet(20, "A")
    keep = filters(network, 0.7)
    assert taken_channels(network, {"conv": keep["conv"]}, keep, "full") == {"layer1.0.conv1": keep["conv"]}
    scatter(network, keep)
    reading = network.module.layer1[0].conv1
    assert isinstance(reading, Reading) and reading.take.index.tolist() == keep["conv"]
    assert network.blueprint["layer1.0.conv1"] == {"kind": "narrow", "inputs": 12, "outputs": 12, "reads": 16}
    assert network.blueprint["layer1.0.bn2"] == {"kind": "narrow", "outputs": 12, "among": 16}


def test_a_norm_without_scale_and_shift_lets_no_filter_go() -> None:
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)]
    assert separable(Network(nn.Sequential(*layers), {}, (3, 8, 8))) == ["2"]
