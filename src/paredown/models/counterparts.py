"""S-CONV and D-CONV of beta-LASSO's paper (arXiv 2007.13657, Tables 3 and 4) with their locally and fully connected
counterparts, which have the same maps and more freedom in what stands in a convolution's place; and 3-FC."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import nn

from paredown.errors import UserError
from paredown.layers._local import LocallyConnected2d
from paredown.models.arguments import require_choice, require_count

Connection = Literal["conv", "local", "fc"]
Norm = Literal["channel", "unit"]
Layers = OrderedDict[str, nn.Module]
# by family: (channels in units of alpha, kernel, stride) of each convolution, and the width of fc1
FAMILIES = {
    "s": (((1, 9, 2),), 24),
    "d": (tuple((width, 3, stride) for width, stride in zip((1, 2, 2, 4, 4, 8, 8, 16), (1, 2) * 4, strict=True)), 64),
}


class InPlaceOfConv(nn.Linear):
    """The linear map between two flattened maps that takes the place of a convolution."""


def counterpart(
    family: Literal["s", "d"],
    connection: Connection,
    alpha: int = 8,
    dropout: float = 0.0,
    norm: Norm = "channel",
    bias: bool = False,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: tuple[int, int] = (32, 32),
) -> nn.Module:
    """S- (one 9 x 9) or D- (eight 3 x 3), then two linear layers; ReLU behind batch norm after all but the last.

    `dropout` acts on the inputs of the two linear layers. `norm`: a locally connected layer's batch norm per channel
    or per unit. `bias`: of the last layer; no other has one. Torch's own initialisation. Raises UserError.
    """
    require_choice("family", family, FAMILIES)
    require_choice("connection", connection, ("conv", "local", "fc"))
    require_choice("norm", norm, ("channel", "unit"))
    for name, value in (("alpha", alpha), ("num_classes", num_classes), ("in_channels", in_channels)):
        require_count(name, value)
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


def three_fc(
    hidden: int = 1469,
    dropout: float = 0.0,
    bias: bool = False,
    *,
    num_classes: int = 10,
    in_channels: int = 3,
    image_size: tuple[int, int] = (32, 32),
) -> nn.Module:
    """3-FC: two hidden layers of `hidden` units (1469: as many weights as S-FC at alpha 8, on CIFAR-10), `dropout` on
    the inputs of the last two linear layers. Raises UserError."""
    for name, value in (("hidden", hidden), ("num_classes", num_classes), ("in_channels", in_channels)):
        require_count(name, value)
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
    """What maps `inputs` (channels, height, width) to `outputs`, and its batch norm."""
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
    """Linear layers of `widths`, dropout before the last two, batch norm and ReLU after all but the last."""
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0 <= dropout < 1:
        raise UserError(f"model.dropout={dropout!r} is not in [0, 1) (0 switches it off)")
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
