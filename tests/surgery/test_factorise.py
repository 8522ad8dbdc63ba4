"""The layers that are factorised, and decompositions in their place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.layers.factorised.forms import Branch
from paredown.layers.factorised.low_rank import low_rank_layers
from paredown.surgery.factorise import convolutions, decompose, dense_twin, layer, place_pair


def resnet8() -> Network:
    torch.manual_seed(0)
    return blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 16, 16))


def test_which_layers() -> None:
    module = resnet8().module
    everything = convolutions(module)
    assert len(everything) == 9 and "conv" in everything and "layer2.0.shortcut.conv" in everything
    assert list(convolutions(module, "trp")) == [
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer2.0.conv2",
        "layer3.0.conv2",
    ]
    large = [f"layer{i}.0.conv{j}" for i in (1, 2, 3) for j in (1, 2)]
    assert list(convolutions(module, "kxk")) == list(convolutions(module, "auto")) == large
    assert list(convolutions(module, "pointwise")) == ["layer2.0.shortcut.conv", "layer3.0.shortcut.conv"]
    mobile = blueprint.create({"_target_": "paredown.models.cifar.mobilenet.mobilenet_v2_cifar"}, (3, 32, 32)).module
    assert all(conv.groups == 1 for conv in convolutions(mobile).values())
    assert list(convolutions(mobile, "auto")) == list(convolutions(mobile, "pointwise"))


def test_a_network_without_such_layers_is_refused() -> None:
    with pytest.raises(UserError, match=r"Sequential has no convolution to factorise \(method\.select=all\)"):
        convolutions(nn.Sequential(nn.Linear(2, 2), nn.Conv2d(4, 4, 3, groups=4)))
    with pytest.raises(UserError, match=r"Sequential has no convolution to factorise \(method\.select=kxk\)"):
        convolutions(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, dilation=2), nn.Linear(4, 4)), "kxk")
    with pytest.raises(UserError, match="layer1 is a Sequential, not a convolution"):
        layer(resnet8(), "layer1")


def test_decomposing_at_full_rank_changes_nothing() -> None:
    network = resnet8()
    network.module.double().eval()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    before = network.module(x)
    full = {"layer1.0.conv1": [Branch("in_group", 16, 9)], "layer2.0.conv1": [Branch("horizontal_first", 1, 48)]}
    decompose(network, full | {"fc": [Branch("in_group", 1, 10)]})
    torch.testing.assert_close(network.module(x), before, rtol=0, atol=1e-9)
    design = {"factorisation": "in_group", "groups": 1, "rank": 10}
    assert network.blueprint["fc"] == {"kind": "pair", **design, "bias": True}
    assert network.blueprint["layer1.0.conv1"]["bias"] is False


def test_a_pair_of_another_weight_and_bias_takes_the_layers_place(tmp_path) -> None:
    network = resnet8()
    weight, bias = torch.randn(16, 16, 3, 3), torch.randn(16)
    pair = place_pair(network, "layer1.0.conv2", Branch("vertical_first", 1, 48), weight, bias)
    x = torch.randn(2, 16, 8, 8)
    torch.testing.assert_close(pair(x), nn.functional.conv2d(x, weight, bias, padding=1), rtol=1e-4, atol=1e-4)
    blueprint.save(network, tmp_path)
    again = blueprint.load(tmp_path).get_submodule("layer1.0.conv2")
    assert torch.equal(again(x), pair(x)) and network.module.get_submodule("layer1.0.conv2") is pair


def test_the_dense_twin_draws_nothing_from_the_generator() -> None:
    network = resnet8()
    names = list(convolutions(network.module))
    blueprint.rewrite(network, names[0], "low_rank", factorisation="in_group", rank=2)
    state = torch.get_rng_state()
    twin = dense_twin(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert (
        not twin.blueprint and not low_rank_layers(twin.module) and list(low_rank_layers(network.module)) == names[:1]
    )
    assert all(isinstance(twin.module.get_submodule(name), nn.Conv2d) for name in names)
