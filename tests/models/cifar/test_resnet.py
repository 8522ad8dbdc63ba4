"""CIFAR ResNets: published sizes, blocks equal to torchvision's, shortcuts equal to their definitions."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock as TorchvisionBasicBlock
from torchvision.models.resnet import Bottleneck as TorchvisionBottleneck

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.models.cifar.resnet import BasicBlock, Bottleneck, cifar_resnet

CIFAR, TINY = (3, 32, 32), (3, 64, 64)

# Parameters with batch norm and classifier; MACs of convolutions and classifier for one 32x32 image.
NARROW = [
    (20, "A", "basic", (269_722, 40_551_040)),
    (20, "B", "basic", (272_474, 40_813_184)),
    (32, "A", "basic", (464_154, 68_862_592)),
    (32, "B", "basic", (466_906, 69_124_736)),
    (56, "A", "basic", (853_018, 125_485_696)),
    (56, "B", "basic", (855_770, 125_747_840)),
    (110, "A", "basic", (1_727_962, 252_887_680)),
    (110, "B", "basic", (1_730_714, 253_149_824)),
    (56, "B", "bottleneck", (869_530, 127_322_624)),
    (110, "B", "bottleneck", (1_704_154, 247_646_720)),
]
GRASP = [  # ResNet-32 with doubled width: input, classes, conv and linear weights, parameters, MACs
    (CIFAR, 10, 1_855_584, (1_860_522, 275_612_928)),
    (CIFAR, 100, 1_867_104, (1_872_132, 275_624_448)),
    (TINY, 200, 1_879_904, (1_885_032, 1_102_472_192)),
]


@pytest.mark.parametrize(("depth", "shortcut", "block", "sizes"), NARROW)
def test_sizes_of_the_papers_networks(measure, depth, shortcut, block, sizes):
    assert measure(cifar_resnet, CIFAR, depth=depth, shortcut=shortcut, block=block) == sizes


@pytest.mark.parametrize(("input_shape", "classes", "weights", "sizes"), GRASP)
def test_sizes_of_grasps_wide_resnet32(measure, input_shape, classes, weights, sizes):
    arguments = {"depth": 32, "width": 2, "num_classes": classes}
    assert measure(cifar_resnet, input_shape, **arguments) == sizes
    matrices = [p.numel() for p in cifar_resnet(**arguments).parameters() if p.dim() > 1]
    assert sum(matrices) == weights


@pytest.mark.parametrize(
    ("depth", "shortcut", "block", "convolutions"),
    [
        (20, "A", "basic", 19),
        (20, "B", "basic", 21),
        (32, "B", "basic", 33),
        (44, "A", "basic", 43),
        (56, "B", "bottleneck", 85),
        (110, "B", "bottleneck", 166),
    ],
)
def test_number_of_convolutions(depth, shortcut, block, convolutions):
    with torch.device("meta"):
        network = cifar_resnet(depth, shortcut=shortcut, block=block)
    assert sum(isinstance(layer, nn.Conv2d) for layer in network.modules()) == convolutions


@pytest.mark.parametrize(("inputs", "width", "stride"), [(16, 16, 1), (16, 32, 2)])
def test_basic_block_equals_torchvisions(perturb, inputs, width, stride):
    block = perturb(BasicBlock(inputs, width, stride, "B"))
    downsample = None if stride == 1 else nn.Sequential(*block.shortcut.children())
    other = TorchvisionBasicBlock(inputs, width, stride, downsample).eval()
    own = {name.replace("shortcut.conv", "downsample.0"): v for name, v in block.state_dict().items()}
    other.load_state_dict({name.replace("shortcut.bn", "downsample.1"): v for name, v in own.items()})
    x = torch.randn(2, inputs, 8, 8)
    torch.testing.assert_close(block(x), other(x))


def test_bottleneck_is_torchvisions_without_its_second_relu(perturb):
    block = perturb(Bottleneck(64, 16, 1, "B"))
    other = TorchvisionBottleneck(64, 16).eval()
    other.load_state_dict(block.state_dict())
    x = torch.randn(2, 64, 8, 8)
    with torch.no_grad():
        assert not torch.allclose(block(x), other(x), atol=1e-3)
        block.bn2.bias += 100  # nothing is negative there any more, so a ReLU changes nothing
        other.bn2.bias += 100
        torch.testing.assert_close(block(x), other(x))


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_option_a_differs_from_b_only_by_the_projections(block):
    a = cifar_resnet(20, shortcut="A", block=block).state_dict()
    b = cifar_resnet(20, shortcut="B", block=block).state_dict()
    assert set(b) - set(a) == {name for name in b if ".shortcut." in name}
    assert set(a) < set(b)


def test_names_of_the_layers():
    names = {name for name, layer in cifar_resnet(8).named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    blocks = {f"layer{i}.0.conv{j}" for i in (1, 2, 3) for j in (1, 2)}
    assert names == {"conv", "fc", "layer2.0.shortcut.conv", "layer3.0.shortcut.conv"} | blocks


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"depth": 33}, ["depth=33", "32 and 38"]),
        ({"depth": 2}, ["depth=2", "8 and 14"]),
        ({"depth": "deep"}, ["depth='deep'", "whole number"]),
        ({"depth": 20, "width": 0}, ["width=0", "0.5, 1, 2"]),
        ({"depth": 20, "width": 0.3}, ["width=0.3", "0.5, 1, 2"]),
        ({"depth": 20, "shortcut": "C"}, ["shortcut='C'", "A, B"]),
        ({"depth": 20, "block": "basics"}, ["block='basics'", "did you mean basic"]),
        ({"depth": 20, "num_classes": 0}, ["num_classes=0", "at least 1"]),
        ({"depth": 20, "in_channels": True}, ["in_channels=true", "at least 1"]),
    ],
)
def test_wrong_values_are_one_line_that_names_right_ones(arguments, words):
    with pytest.raises(UserError) as raised:
        blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet"} | arguments, (3, 32, 32))
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_half_width_is_a_quarter_of_the_blocks_weights():
    half, full = (cifar_resnet(20, width).layer3[1].conv1.weight.numel() for width in (0.5, 1))
    assert full == 4 * half
