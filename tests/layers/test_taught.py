"""A layer beside its dense weights: what it computes and costs is the student's, whatever becomes of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paredown import blueprint
from paredown.cost import count
from paredown.layers.taught import taught, teacher
from paredown.methods._nas_distil import drop_dense, teach
from paredown.plan import Context, Network
from paredown.surgery.deploy import deploy, prove_equal
from paredown.surgery.design_space import Branch, Prices, decompose

SHAPE = (3, 16, 16)
DESIGNS = {
    "layer1.0.conv1": [Branch("spatial", 1, 5)],
    "layer2.0.conv1": [Branch("out_group", 4, 2), Branch("in_group", 2, 3)],
}


def dense() -> Network:
    torch.manual_seed(0)
    return blueprint.create({"_target_": "paredown.models.resnet.cifar_resnet", "depth": 8}, SHAPE)


def test_it_is_the_decomposed_layer_and_still_knows_the_dense_one(tmp_path) -> None:
    network, plain, original = dense(), dense(), dense()
    expected = Prices(network, "macs").total(DESIGNS)
    teach(network, DESIGNS)
    decompose(plain, DESIGNS)
    for module in (network.module, plain.module, original.module):
        module.eval()
    x = torch.randn(2, *SHAPE)
    assert torch.allclose(network.module(x), plain.module(x), atol=1e-5)
    assert torch.allclose(teacher(network.module)(x), original.module(x), atol=1e-6)
    assert count(network.module, SHAPE).macs == expected == count(plain.module, SHAPE).macs
    assert count(network.module, SHAPE).params == count(plain.module, SHAPE).params
    assert prove_equal(network.module.double(), deploy(network.module), SHAPE) < 1e-9
    network.module.float()
    blueprint.save(network, tmp_path)
    again = blueprint.read(tmp_path)
    assert torch.equal(again.module(x), network.module(x)) and set(taught(again.module)) == set(DESIGNS)
    drop_dense(again, Context(None, torch.device("cpu"), 0))
    assert not taught(again.module) and torch.allclose(again.module(x), plain.module(x), atol=1e-5)
    assert again.blueprint == plain.blueprint
    blueprint.save(again, tmp_path)
    assert torch.equal(blueprint.read(tmp_path).module(x), again.module(x))


@pytest.mark.parametrize("bias", [True, False])
def test_the_bias_is_the_second_convolutions_and_the_teachers(bias) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 6, 3, padding=1, bias=bias)
    network = Network(nn.Sequential(conv), {}, (4, 8, 8))
    teach(network, {"0": [Branch("in_group", 1, 6)]})  # full rank: the same
    x = torch.randn(1, 4, 8, 8)
    assert torch.allclose(network.module(x), conv(x), atol=1e-5)
    assert torch.allclose(teacher(network.module)(x), conv(x))
