"""Layers with weights fixed at zero: exact through training, saving and deploying."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from paredown import blueprint
from paredown.cost import count
from paredown.errors import UserError
from paredown.layers.masked import MaskedConv2d, MaskedLinear, build, effective_weight
from paredown.models.resnet import cifar_resnet
from paredown.plan import Network
from paredown.surgery.deploy import deploy, prove_equal


def masked(dense: nn.Conv2d, density: float = 0.4) -> MaskedConv2d:
    generator = torch.Generator().manual_seed(0)
    return MaskedConv2d(dense, torch.rand(dense.weight.shape, generator=generator) < density)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_removed_weights_stay_exactly_zero(kind: str, optimizer: str) -> None:
    torch.manual_seed(0)
    layer = masked(nn.Conv2d(4, 6, 3)) if kind == "conv" else masked_linear(nn.Linear(5, 7))
    kept = layer.weight.detach().clone()
    steps = {
        "sgd": lambda: torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
        "adam": lambda: torch.optim.Adam(layer.parameters(), 0.1, weight_decay=0.1),
    }[optimizer]()
    for _ in range(5):
        steps.zero_grad()
        layer(torch.randn(2, 4, 5, 5)).square().sum().backward()
        steps.step()
    assert not layer.weight[~layer.mask].any()
    assert (layer.weight[layer.mask] != kept[layer.mask]).all()


def masked_linear(dense: nn.Linear) -> MaskedLinear:
    layer = build(dense)
    assert isinstance(layer, MaskedLinear)
    layer.set_mask(torch.rand(dense.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.4)
    return layer


@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_deploys_as_one_and_both_counters_agree(bias: bool) -> None:
    dense = nn.Linear(12, 7, bias=bias)
    layer = masked_linear(dense)
    assert type(layer.deployed()) is nn.Linear
    assert torch.equal(layer.deployed().weight, dense.weight * layer.mask)
    network = nn.Sequential(nn.Flatten(), layer)
    assert prove_equal(network, deploy(network), (3, 2, 2)) < 1e-12
    cost = count(network, (3, 2, 2))
    assert cost.macs == cost.weights == int(layer.mask.sum()) == cost.params - 7 * bias
    rows = count(nn.Sequential(nn.Flatten(), nn.Unflatten(1, (4, 12)), layer), (48, 1, 1))
    assert rows.macs == 4 * int(layer.mask.sum())


def test_a_stray_value_under_the_mask_reaches_neither_output_nor_deployed_weight() -> None:
    layer, x = masked(nn.Conv2d(4, 6, 3)), torch.randn(1, 4, 5, 5)
    before = layer(x)
    with torch.no_grad():
        layer.weight[~layer.mask] = 7.0
    assert torch.equal(layer(x), before)
    assert not layer.deployed().weight[~layer.mask].any()
    assert torch.equal(effective_weight(layer), layer.deployed().weight)


def test_a_new_mask_removes_weights_in_place() -> None:
    layer = build(nn.Conv2d(3, 5, 3))
    buffer, whole = layer.mask, layer.weight.detach().clone()
    assert layer.active_weights() == 135
    mask = torch.rand(5, 3, 3, 3) < 0.5
    layer.set_mask(mask)
    assert layer.mask is buffer and layer.active_weights() == int(mask.sum())
    assert torch.equal(layer.weight, whole * mask)


@pytest.mark.parametrize(
    "settings",
    [{"groups": 4, "padding": 1}, {"stride": 2, "dilation": 2, "bias": False}, {"padding": "valid", "kernel_size": 1}],
)
def test_deployed_computes_the_same_and_both_counters_agree(settings) -> None:
    layer = masked(nn.Conv2d(4, 8, **({"kernel_size": 3} | settings)))
    assert type(layer.deployed()) is nn.Conv2d
    assert prove_equal(layer, deploy(layer), (4, 9, 8)) < 1e-12
    assert (
        count(nn.Sequential(layer), (4, 9, 8)).macs
        == int(layer.mask.sum()) * layer(torch.zeros(1, 4, 9, 8))[0, 0].numel()
    )


def test_building_copies_the_dense_layer_and_draws_nothing() -> None:
    dense = nn.Conv2d(3, 4, 3).half().eval()
    state = torch.get_rng_state()
    layer = build(dense)
    assert torch.equal(torch.get_rng_state(), state)
    assert not layer.training and layer.weight.dtype == torch.float16
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    assert dense.weight.any() and dense.bias.any()


def test_the_mask_travels_with_the_weights(tmp_path: Path) -> None:
    architecture = {"_target_": "paredown.models.resnet.cifar_resnet", "depth": 8, "in_channels": 1}
    network = Network(cifar_resnet(8, in_channels=1), architecture, (1, 8, 8))
    name = "layer2.0.conv1"
    blueprint.rewrite(network, name, "masked")
    layer = network.module.get_submodule(name)
    layer.set_mask(torch.rand(layer.weight.shape) < 0.3)
    blueprint.save(network, tmp_path)
    loaded = blueprint.load(tmp_path)
    assert torch.equal(loaded.get_submodule(name).mask, layer.mask)
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(x), network.module.eval()(x))


def test_wrong_masks_and_layers_are_one_line() -> None:
    with pytest.raises(UserError, match=r"a mask of shape \(3,\) for a weight of \(4, 3, 3, 3\)"):
        MaskedConv2d(nn.Conv2d(3, 4, 3), torch.ones(3))
    with pytest.raises(UserError, match="one of Conv2d, Linear, LocallyConnected2d, not a BatchNorm2d"):
        build(nn.BatchNorm2d(4))
