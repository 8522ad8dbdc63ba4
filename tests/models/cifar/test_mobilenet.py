"""MobileNetV2 for CIFAR: the sizes SSC's kept fractions rest on, and blocks equal to torchvision's."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual as TorchvisionInvertedResidual

from paredown.models.cifar.mobilenet import InvertedResidual, mobilenet_v2_cifar


@pytest.mark.parametrize(("projections", "parameters"), [(True, 2_296_922), (False, 2_237_770)])
def test_parameters(measure, projections, parameters):
    assert measure(mobilenet_v2_cifar, (3, 32, 32), projections=projections)[0] == parameters


def test_weights_of_the_pointwise_convolutions():
    convs = {n: m for n, m in mobilenet_v2_cifar().named_modules() if isinstance(m, nn.Conv2d)}
    pointwise = {name: conv.weight.numel() for name, conv in convs.items() if conv.kernel_size == (1, 1)}
    shortcuts = sum(count for name, count in pointwise.items() if "shortcut" in name)
    assert shortcuts == 58_240
    assert sum(pointwise.values()) - shortcuts == 2_125_696


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(24, 24, 1), (24, 32, 2)])
def test_block_equals_torchvisions(perturb, inputs, outputs, stride):
    block = perturb(InvertedResidual(inputs, outputs, 6, stride, True))
    other = TorchvisionInvertedResidual(inputs, outputs, stride, expand_ratio=6).eval()
    ours = [m for m in block.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    theirs = [m for m in other.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    for mine, yours in zip(ours, theirs, strict=True):
        yours.load_state_dict(mine.state_dict())
    x = torch.randn(2, inputs, 8, 8)
    torch.testing.assert_close(block(x), other(x))  # nothing here reaches 6, where ReLU6 would differ


def test_projection_adds_a_pointwise_shortcut(perturb):
    block = perturb(InvertedResidual(16, 24, 6, 1, True))
    without = perturb(InvertedResidual(16, 24, 6, 1, False))
    without.load_state_dict({n: v for n, v in block.state_dict().items() if "shortcut" not in n})
    x = torch.randn(2, 16, 8, 8)
    weight = block.shortcut.conv.weight[:, :, 0, 0]
    shortcut = block.shortcut.bn(torch.einsum("oi,bihw->bohw", weight, x))
    torch.testing.assert_close(block(x), without(x) + shortcut)
