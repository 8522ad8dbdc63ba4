"""CIFAR ResNets (He et al. 2015, arXiv 1512.03385, 4.2) and the bottleneck variant of SVD training."""

from __future__ import annotations

from collections import OrderedDict
from typing import Annotated, Literal

import torch
from annotated_types import Gt
from torch import Tensor, nn

from paredown.core.constraints import Count, Rule
from paredown.core.errors import UserError
from paredown.core.keys import identity
from paredown.layers.shortcut import SubsampleAndPad
from paredown.models.init import initialise

WIDTHS = (16, 32, 64)
Width = Annotated[float, Gt(0), Rule("above 0: 0.5, 1, 2, ...")]


@identity("cifar_resnet")
def cifar_resnet(
    depth: Count,
    width: Width = 1,
    shortcut: Literal["A", "B"] = "B",
    block: Literal["basic", "bottleneck"] = "basic",
    *,
    num_classes: Count = 10,
    in_channels: Count = 3,
) -> nn.Module:
    """Build ResNet-`depth` with (depth - 2) / 6 blocks in each of three stages of `width` * (16, 32, 64) channels.

    `width=2` is the network of GraSP and SSC. `block="bottleneck"` keeps that number of blocks, as the code of SVD
    training and TRP does at depth 56 and 110. Raise UserError for another depth or width.
    """
    if depth % 6 != 2 or depth < 8:
        below = max(8, depth - (depth - 2) % 6)
        raise UserError(f"model.depth={depth} is not 6n + 2: the nearest are {below} and {below + 6}")
    return CifarResNet(
        BLOCKS[block],
        (depth - 2) // 6,
        _stage_widths(width),
        shortcut=shortcut,
        num_classes=num_classes,
        in_channels=in_channels,
    )


class CifarResNet(nn.Module):
    """Input (batch, in_channels, height, width), output logits (batch, num_classes); strides 1, 2, 2."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: int,
        widths: tuple[int, ...],
        *,
        shortcut: str,
        num_classes: int,
        in_channels: int,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        inputs = [widths[0], *(width * block.expansion for width in widths)]
        stages = [
            nn.Sequential(
                block(inputs[i], width, 1 if i == 0 else 2, shortcut),
                *(block(inputs[i + 1], width, 1, shortcut) for _ in range(blocks - 1)),
            )
            for i, width in enumerate(widths)
        ]
        self.layer1, self.layer2, self.layer3 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs[-1], num_classes)
        initialise(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.relu(self.bn(self.conv(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.pool(x), 1))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.shortcut = make_shortcut(inputs, width, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions with a shortcut. Unlike He et al.'s block, and as in the code of SVD training and
    TRP, there is no ReLU between the 3x3 and the last 1x1."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut = make_shortcut(inputs, outputs, stride, shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


BLOCKS: dict[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


def make_shortcut(inputs: int, outputs: int, stride: int, shortcut: str) -> nn.Module:
    """Build the identity if shapes agree, else option A (no parameters) or B (1x1 convolution, batch norm)."""
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if shortcut == "A":
        return SubsampleAndPad(stride, outputs - inputs)
    conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(outputs)))


def _stage_widths(width: float) -> tuple[int, ...]:
    if not float(width * WIDTHS[0]).is_integer():
        raise UserError(f"model.width={width:g} does not multiply 16 to a whole number: take 0.5, 1, 2, ...")
    return tuple(int(channels * width) for channels in WIDTHS)
