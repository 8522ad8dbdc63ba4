"""Small networks that tests of several rooms share."""

from __future__ import annotations

import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.network import Network


def two_convolutions() -> nn.Sequential:
    """Convolution, batch norm with statistics of its own and a channel it multiplies by 0, ReLU; twice; in float64."""
    torch.manual_seed(1)
    layers = [
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 6, 3, 2, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
    ]
    network = nn.Sequential(*layers).double()
    for norm in (network[1], network[4]):
        for values in (norm.weight.data, norm.bias.data, norm.running_mean):
            values.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data[2] = 0
    return network.eval()


def ssc_resnet8() -> Network:
    """ResNet-8 with two SSC layers."""
    torch.manual_seed(0)
    network = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 8, 8))
    for name in ("layer2.0.conv2", "layer3.0.conv2"):
        blueprint.rewrite(network, name, "ssc", g=8, p=4)
    network.module.eval()
    return network
