"""What ships is plain torch, shares nothing with what was trained, and computes the same; a lie is found and named."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.core.compressed import CompressedLayer
from paredown.core.deploy import DeployError, compressed_layers, deploy, prove_equal
from paredown.layers import masked

SHAPE = (3, 8, 8)


class LowRank(CompressedLayer):
    """A convolution as two, whose deployed form is the one dense convolution they make."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, rank, 3, padding=1, bias=False)
        self.second = nn.Conv2d(rank, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))

    def active_weights(self) -> int:
        return self.first.weight.numel() + self.second.weight.numel()

    def macs(self, input_shape: tuple[int, ...]) -> int:
        return self.active_weights() * input_shape[1] * input_shape[2]

    def deployed(self) -> nn.Module:
        return nn.Sequential(self.first, self.second)


class Wrong(LowRank):
    """Forgets the second convolution's bias when it is deployed."""

    def deployed(self) -> nn.Module:
        second = copy.deepcopy(self.second)
        second.bias = None
        return nn.Sequential(self.first, second)


def network(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)]
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True), *layers, *head)


def masked_conv() -> nn.Module:
    layer = masked.build(nn.Conv2d(6, 6, 3, padding=1))
    layer.set_mask(torch.rand(6, 6, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.3)
    return layer


@pytest.mark.parametrize("layer", [lambda: LowRank(6, 6, 2), masked_conv])
def test_every_rewritten_layer_becomes_plain_and_computes_the_same(layer):
    trained = network(layer())
    for parameter in trained.parameters():  # away from the tidy values of a fresh network
        nn.init.normal_(parameter, std=0.3)
    deployed = deploy(trained)
    assert not compressed_layers(deployed) and not any(
        type(m).__module__.startswith("paredown") for m in deployed.modules()
    )
    images = torch.randn(5, *SHAPE)
    torch.testing.assert_close(deployed(images), trained.eval()(images))
    assert prove_equal(trained, deployed, SHAPE) < 1e-12


def test_a_whole_ssc_network_ships_its_zeros():
    small = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}
    whole = blueprint.create(small, (3, 32, 32))
    for name, pair in {"layer1.0.conv1": (4, 3), "layer2.0.conv2": (8, 8), "layer3.0.shortcut.conv": (0, 4)}.items():
        blueprint.rewrite(whole, name, "ssc", g=pair[0], p=pair[1])
    deployed = deploy(whole.module)
    assert prove_equal(whole.module, deployed, (3, 32, 32)) < 1e-12
    for name, layer in compressed_layers(whole.module).items():
        assert int(deployed.get_submodule(name).weight.count_nonzero()) == layer.active_weights()


def test_nothing_is_shared_and_nothing_changed():
    trained = network(LowRank(6, 6, 2)).train()
    before = copy.deepcopy(trained.state_dict())
    generator = torch.get_rng_state()
    deployed = deploy(trained)
    assert not deployed.training and not any(module.training for module in deployed.modules())
    assert all(module.training for module in trained.modules())
    with torch.no_grad():
        for parameter in deployed.parameters():
            parameter.fill_(7.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_rewritten_network_may_be_a_single_layer():
    layer = masked.build(nn.Conv2d(3, 5, 3))
    assert type(deploy(layer)) is nn.Conv2d
    assert prove_equal(layer, deploy(layer), SHAPE) == 0


def test_a_layer_with_two_names_is_deployed_once():
    layer = LowRank(6, 6, 2)
    trained = network(layer, layer)
    deployed = deploy(trained)
    assert deployed[3] is deployed[4] and not compressed_layers(deployed)
    assert prove_equal(trained, deployed, SHAPE) < 1e-12


def test_a_layer_inside_a_rewritten_one_is_its_own_affair():
    outer = LowRank(6, 6, 2)
    outer.first = masked.build(outer.first)
    assert list(compressed_layers(network(outer))) == ["3"]


def test_a_wrong_deployed_form_is_refused_by_the_first_layers_name():
    trained = network(LowRank(6, 6, 2), Wrong(6, 6, 2), Wrong(6, 6, 2))
    with pytest.raises(DeployError, match=r"layer 4 differs by"):
        prove_equal(trained, deploy(trained), SHAPE)


def test_a_difference_is_found_behind_a_classifier_that_ignores_it():
    trained = network(Wrong(6, 6, 2))
    nn.init.zeros_(trained[-1].weight)  # every image gets the same logits
    with pytest.raises(DeployError, match="layer 3 differs"):
        prove_equal(trained, deploy(trained), SHAPE)


def test_a_changed_plain_layer_is_named():
    trained = network(LowRank(6, 6, 2))
    deployed = deploy(trained)
    with torch.no_grad():
        deployed[1].running_mean += 1e-6
    with pytest.raises(DeployError, match="layer 1 differs"):
        prove_equal(trained, deployed, SHAPE)


def test_a_difference_outside_of_layers_is_found_in_the_output():
    trained = network(LowRank(6, 6, 2))
    deployed = deploy(trained)
    deployed[2] = nn.GELU()
    with pytest.raises(DeployError, match="the network's output differs"):
        prove_equal(trained, deployed, SHAPE)


def test_another_shape_and_not_a_number_are_refused():
    trained = network(LowRank(6, 6, 2))
    deployed = deploy(trained)
    deployed[-1] = nn.Linear(6, 5)
    with pytest.raises(DeployError, match=r"layer 6 has shape \(4, 5\) instead of \(4, 4\)"):
        prove_equal(trained, deployed, SHAPE)
    nn.init.constant_(trained[-1].bias, float("nan"))
    with pytest.raises(DeployError, match="differs by nan"):
        prove_equal(trained, deploy(trained), SHAPE)


def test_in_place_activations_do_not_mislead_the_comparison():
    trained = network(nn.SiLU(inplace=True), LowRank(6, 6, 2), nn.Hardswish(inplace=True))
    assert prove_equal(trained, deploy(trained), SHAPE) < 1e-12
