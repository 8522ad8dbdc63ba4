"""The networks of beta-LASSO's paper (arXiv 2007.13657, Tables 3 and 4): S-CONV and D-CONV, their locally and fully
connected counterparts with feature maps of the same sizes, and 3-FC."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from paredown.core.constraints import Count, Fraction
from paredown.core.errors import UserError
from paredown.core.keys import identity
from paredown.layers.local import LocallyConnected2d

Connection = Literal["conv", "local", "fc"]
Norm = Literal["channel", "unit"]
Layers = OrderedDict[str, nn.Module]
# by family: (channels in units of alpha, kernel, stride) of each convolution, and the width of fc1
FAMILIES = {
    "s": (((1, 9, 2),), 24),
    "d": (tuple((width, 3, stride) for width, stride in zip((1, 2, 2, 4, 4, 8, 8, 16), (1, 2) * 4, strict=True)), 64),
}


class InPlaceOfConv(nn.Linear):
    """A linear layer between two flattened feature maps, in the fully connected counterpart of a convolution."""


@identity("counterpart")
def counterpart(
    family: Literal["s", "d"],
    connection: Connection,
    alpha: Count = 8,
    dropout: Fraction = 0.0,
    norm: Norm = "channel",
    bias: bool = False,
    *,
    num_classes: Count = 10,
    in_channels: Count = 3,
    image_size: tuple[int, int] = (32, 32),
) -> nn.Module:
    """Build S- (one 9 x 9) or D- (eight 3 x 3) and two linear layers; batch norm and ReLU after all but the last.

    `dropout` acts on the inputs of the two linear layers. `norm`: the batch norm of locally connected layers is per
    channel or per unit. `bias`: of the last layer; no other has one. Torch's default initialisation. Raise UserError
    for an image size that cannot be halved often enough.
    """
    convs, hidden = FAMILIES[family]
    _require_halving(f"{family}_{connection}", sum(stride == 2 for _, _, stride in convs), image_size)
    layers: Layers = OrderedDict(flatten=nn.Flatten()) if connection == "fc" else OrderedDict()
    channels, size = in_channels, (image_size[0], image_size[1])
    for index, (width, kernel, stride) in enumerate(convs, start=1):
        smaller = (size[0] // stride, size[1] // stride)
        layer, batch_norm = _place(connection, (channels, *size), (alpha * width, *smaller), kernel, stride, norm)
        layers |= {f"conv{index}": layer, f"bn{index}": batch_norm, f"relu{index}": nn.ReLU()}
        channels, size = alpha * width, smaller
    if connection != "fc":
        layers["flatten"] = nn.Flatten()
    return nn.Sequential(
        layers | _linear(channels * math.prod(size), [hidden * alpha, num_classes], dropout=dropout, bias=bias)
    )


@identity("three_fc")
def three_fc(
    hidden: Count = 1469,
    dropout: Fraction = 0.0,
    bias: bool = False,
    *,
    num_classes: Count = 10,
    in_channels: Count = 3,
    image_size: tuple[int, int] = (32, 32),
) -> nn.Module:
    """Build 3-FC: two hidden layers of `hidden` units (1469: as many weights as S-FC at alpha 8, on CIFAR-10) and
    `dropout` on the inputs of the last two linear layers."""
    inputs = in_channels * math.prod(image_size)
    return nn.Sequential(
        OrderedDict[str, nn.Module](flatten=nn.Flatten())
        | _linear(inputs, [hidden, hidden, num_classes], dropout=dropout, bias=bias)
    )


def _require_halving(name: str, times: int, image_size: Sequence[int]) -> None:
    height, width = image_size
    if height % 2**times or width % 2**times:
        raise UserError(
            f"model {name} halves the image {times} time{'s' * (times > 1)}: "
            f"{width}x{height} pixels cannot be (multiples of {2**times} can)"
        )


def _place(
    connection: Connection, inputs: Sequence[int], outputs: Sequence[int], kernel: int, stride: int, norm: Norm
) -> tuple[nn.Module, nn.Module]:
    """Build the layer that maps `inputs` (channels, height, width) to `outputs`, and its batch norm."""
    channels, size = outputs[0], (inputs[1], inputs[2])
    per_channel: nn.Module = nn.BatchNorm2d(channels)
    if connection == "conv":
        return nn.Conv2d(inputs[0], channels, kernel, stride, padding=kernel // 2, bias=False), per_channel
    units = math.prod(outputs)
    if connection == "fc":
        return InPlaceOfConv(math.prod(inputs), units, bias=False), nn.BatchNorm1d(units)
    if norm == "unit":
        per_channel = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(units), nn.Unflatten(1, tuple(outputs)))
    return LocallyConnected2d(inputs[0], channels, kernel, stride, kernel // 2, size), per_channel


def _linear(inputs: int, widths: Sequence[int], *, dropout: float, bias: bool) -> Layers:
    """Build linear layers of `widths`, dropout before the last two, batch norm and ReLU after all but the last."""
    layers: Layers = OrderedDict()
    for index, width in enumerate(widths, start=1):
        last = index == len(widths)
        if dropout and index >= len(widths) - 1:
            layers[f"fc{index}_dropout"] = nn.Dropout(dropout)
        layers[f"fc{index}"] = nn.Linear(inputs, width, bias=bias and last)
        if not last:
            layers |= {f"fc{index}_bn": nn.BatchNorm1d(width), f"fc{index}_relu": nn.ReLU()}
        inputs = width
    return layers
