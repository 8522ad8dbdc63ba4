"""MobileNetV2 for 32x32 images (Sandler et al. 2018, arXiv 1801.04381), in the variant that matches SSC's counts."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from paredown.core.constraints import Count
from paredown.core.keys import identity
from paredown.models.init import initialise

# expansion, channels, blocks, first stride: the paper's table 2, with two strides of 2 reduced to 1 for 32x32 images
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@identity("mobilenet_v2_cifar")
def mobilenet_v2_cifar(num_classes: Count = 10, in_channels: Count = 3, projections: bool = True) -> nn.Module:
    """Build MobileNetV2 with total stride 8. `projections` adds a 1x1 convolution and batch norm to the shortcut of
    every stride-1 block that changes the number of channels."""
    return CifarMobileNetV2(num_classes, in_channels, projections)


class CifarMobileNetV2(nn.Module):
    """Input (batch, in_channels, height, width), output logits (batch, num_classes)."""

    def __init__(self, num_classes: int, in_channels: int, projections: bool) -> None:
        super().__init__()
        self.stem = _conv_bn(in_channels, 32, 3)
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, width, count, first_stride in STAGES:
            for i in range(count):
                stride = first_stride if i == 0 else 1
                blocks.append(InvertedResidual(channels, width, expansion, stride, projections))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv_bn(channels, 1280, 1)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(1280, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(self.relu(self.stem(images)))
        return self.fc(torch.flatten(self.pool(self.relu(self.head(x))), 1))


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise 3x3 and linear 1x1 projection, with a shortcut if the stride is 1."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int, projection: bool) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _conv_bn(inputs, hidden, 1)
        self.depthwise = _conv_bn(hidden, hidden, 3, stride, groups=hidden)
        self.project = _conv_bn(hidden, outputs, 1)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module | None = None
        if stride == 1 and inputs == outputs:
            self.shortcut = nn.Identity()
        elif stride == 1 and projection:
            self.shortcut = _conv_bn(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.project(self.relu(self.depthwise(self.relu(self.expand(x)))))
        return y if self.shortcut is None else y + self.shortcut(x)


def _conv_bn(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs)))
