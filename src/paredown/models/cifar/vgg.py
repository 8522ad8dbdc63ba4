"""VGG-19 (Simonyan and Zisserman 2015, configuration E) with batch norm, as GraSP trains it."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from paredown.core.constraints import Count
from paredown.core.keys import identity
from paredown.models.init import initialise

STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels, convolutions


@identity("vgg19_bn")
def vgg19_bn(num_classes: Count = 10, in_channels: Count = 3) -> nn.Module:
    """Build 16 convolutions in five stages with a max-pool between stages, global average pool, one linear layer."""
    return VGG(STAGES, num_classes, in_channels)


class VGG(nn.Module):
    """Input (batch, in_channels, height, width), output logits (batch, num_classes)."""

    def __init__(self, stages: tuple[tuple[int, int], ...], num_classes: int, in_channels: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels = in_channels
        for stage, (width, depth) in enumerate(stages, start=1):
            if stage > 1:
                # rounding up does not change even sizes, and lets images below 16x16 pass all stages
                layers[f"pool{stage - 1}"] = nn.MaxPool2d(2, ceil_mode=True)
            for i in range(1, depth + 1):
                layers[f"conv{stage}_{i}"] = nn.Conv2d(channels, width, 3, padding=1, bias=False)
                layers[f"bn{stage}_{i}"] = nn.BatchNorm2d(width)
                layers[f"relu{stage}_{i}"] = nn.ReLU()
                channels = width
        self.features = nn.Sequential(layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.features(images)), 1))
