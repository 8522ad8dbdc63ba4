"""Initialisation: the spread each rule asks for, measured on large layers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from paredown.models.cifar.mobilenet import mobilenet_v2_cifar
from paredown.models.cifar.resnet import cifar_resnet
from paredown.models.cifar.vgg import vgg19_bn


@pytest.mark.parametrize("network", [lambda: cifar_resnet(20, 4), vgg19_bn, mobilenet_v2_cifar])
def test_spread_of_the_weights(network):
    torch.manual_seed(0)
    for name, layer in network().named_modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.out_channels * layer.kernel_size[0] ** 2
            relative = layer.weight.std().item() / math.sqrt(2 / fan_out) - 1
            assert abs(relative) < 6 / math.sqrt(2 * layer.weight.numel()), name  # six standard errors
            assert layer.bias is None
        elif isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.01, rel=0.06)
            assert not layer.bias.any()
        elif isinstance(layer, nn.BatchNorm2d):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()


def test_same_seed_same_weights():
    networks = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        networks.append(torch.cat([p.flatten() for p in cifar_resnet(8).parameters()]))
    assert torch.equal(networks[0], networks[1])
    assert not torch.equal(networks[0], networks[2])
