"""The kind `narrow`: a convolution, linear layer, batch norm or padded shortcut with fewer channels.

Plain torch layers where all that read and write the channels are cut alike; `Reading` and `Spread`, which move channels
at run time, where a layer is narrower than the tensor that it reads or adds to.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core.errors import UserError
from paredown.layers.around import AroundConv2d
from paredown.layers.shortcut import LeafModule, SubsampleAndPad

Layer = TypeVar("Layer", bound=nn.Module)
HE, DEFAULT = 2.0, 1 / 3  # variance times fan: He's normal for ReLU (fan-out), torch's uniform (fan-in)
SAMPLE, TOLERANCE = 64, 0.4  # weights whose variance says something, and how exactly
NORMS = nn.BatchNorm1d | nn.BatchNorm2d


class Take(LeafModule):
    """Takes the channels `index` (n,), int64, of a map."""

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W, ...) to (B, n, H, W, ...)."""
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
            return x.permute(0, 2, 3, 1).index_select(3, self.index).permute(0, 3, 1, 2)  # keeps the channels last
        return x.index_select(1, self.index)


class Place(Take):
    """Writes the n channels of a map to their places among C, with zeros elsewhere: `index` (C,), int64, is the channel
    of each place, n where there is none."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n, H, W, ...) to (B, C, H, W, ...)."""
        untouched = (0, 0) * (x.dim() - 2)
        return super().forward(functional.pad(x, (*untouched, 0, 1)))


class Reading(AroundConv2d):
    """The convolution `conv` of the channels that `take` takes."""

    def __init__(self, take: Take, conv: nn.Conv2d) -> None:
        super().__init__()
        self.take, self.conv = take, conv

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the output of the convolution."""
        return cast(Tensor, self.conv(self.take(x)))

    def deployed(self) -> nn.Sequential:
        """Return the two as plain modules."""
        return nn.Sequential(self.take, self.conv).train(self.training)


class Spread(nn.Module):
    """The batch norm `bn` of n channels, and `place`, which writes them among others."""

    def __init__(self, bn: nn.Module, place: Place) -> None:
        super().__init__()
        self.bn, self.place = bn, place

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, n, H, W) to (B, C, H, W)."""
        return cast(Tensor, self.place(self.bn(x)))


def build(
    dense: nn.Module, outputs: int, inputs: int | None = None, reads: int | None = None, among: int | None = None
) -> nn.Module:
    """Build the kind `narrow` with the first `outputs` and `inputs` channels of `dense`; `reads`: the convolution takes
    its inputs out of so many channels; `among`: the batch norm's channels are written among so many.

    Raise UserError for a layer that cannot be narrower and for widths that are not within those of `dense`.
    """
    if isinstance(dense, SubsampleAndPad):
        return _less_padded(dense, outputs - (inputs or 0))
    first, second = _whole(dense, "outputs", outputs), _whole(dense, "inputs", inputs)
    if reads is not None and (not isinstance(dense, nn.Conv2d) or dense.groups > 1 or not len(second) <= reads):
        raise UserError(f"kind 'narrow' cannot take {inputs} of {reads} channels for a {type(dense).__name__}")
    if among is not None and (not isinstance(dense, nn.BatchNorm2d) or not outputs <= among):
        raise UserError(f"kind 'narrow' cannot write {outputs} among {among} channels behind a {type(dense).__name__}")
    layer = _drawn_as(dense, narrowed(dense, first, second))
    if reads is not None:
        return Reading(Take(torch.arange(len(second))), cast(nn.Conv2d, layer))
    if among is not None:
        return Spread(layer, Place(torch.arange(among).clamp(max=outputs)))
    return layer


def narrowed(dense: Layer, outputs: Tensor, inputs: Tensor) -> Layer:
    """Return a copy of the layer `dense` with the output and input channels of these indices (n,) alone, both int64.
    A depthwise convolution has as many groups as inputs. Raise UserError as `build` does."""
    if isinstance(dense, SubsampleAndPad):
        return cast(Layer, _less_padded(dense, len(outputs) - len(inputs)))
    layer: Any = _without_tensors(dense)
    for name, tensor in (*dense._parameters.items(), *dense._buffers.items()):
        part = tensor
        if tensor is not None and tensor.dim():  # not the batch norm's counter
            part = tensor.detach().index_select(0, outputs.to(tensor.device))
            if name == "weight" and not isinstance(dense, NORMS) and not _depthwise(dense):
                part = part.index_select(1, inputs.to(tensor.device))
        if name in dense._buffers:
            layer.register_buffer(name, part)
        else:
            required = tensor is not None and tensor.requires_grad
            layer.register_parameter(name, None if part is None else nn.Parameter(part, requires_grad=required))
    if isinstance(dense, NORMS):
        layer.num_features = len(outputs)
    elif isinstance(dense, nn.Conv2d):
        layer.out_channels, layer.in_channels = len(outputs), len(inputs)
        layer.groups = len(inputs) if _depthwise(dense) else 1
    else:
        layer.out_features, layer.in_features = len(outputs), len(inputs)
    return cast(Layer, layer)


def widths(layer: nn.Module) -> dict[str, int]:
    """Return the numbers of channels of a layer as arguments of `build`. Raise UserError for one that cannot be
    narrower."""
    if isinstance(layer, NORMS):
        return {"outputs": layer.num_features}
    if isinstance(layer, nn.Linear):
        return {"inputs": layer.in_features, "outputs": layer.out_features}
    if isinstance(layer, nn.Conv2d) and (layer.groups == 1 or _depthwise(layer)):
        return {"inputs": layer.in_channels, "outputs": layer.out_channels}
    raise UserError(f"kind 'narrow' has no form of a {type(layer).__name__}")


def _drawn_as(dense: nn.Module, layer: Layer) -> Layer:
    """Scale the weights of `layer`, cut from a fresh `dense`, to the variance that the initialisation of `dense` has at
    these widths: He's normal by the fan-out, or torch's default by the fan-in; others stay."""
    whole, weight = dense._parameters.get("weight"), layer._parameters.get("weight")
    if whole is None or weight is None or whole.dim() < 2 or whole.numel() < SAMPLE:
        return layer
    variance, taps = float(whole.detach().var()), whole[0, 0].numel()
    for axis, law in ((0, HE), (1, DEFAULT)):
        if abs(variance * taps * whole.shape[axis] / law - 1) < TOLERANCE:
            weight.data *= (whole.shape[axis] / weight.shape[axis]) ** 0.5
            break
    return layer


def _less_padded(dense: SubsampleAndPad, extra: int) -> SubsampleAndPad:
    if not 0 <= extra <= dense.extra:
        raise UserError(f"kind 'narrow' cannot pad with {extra} channels instead of {dense.extra}")
    return SubsampleAndPad(dense.stride, extra).train(dense.training)


def _depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == layer.in_channels > 1


def _whole(dense: nn.Module, what: str, width: int | None) -> Tensor:
    """Return the first `width` indices. Raise UserError where `dense` has not so many."""
    most = widths(dense).get(what, 0)
    width = most if width is None else width
    if not (0 < width <= most or width == most):
        raise UserError(f"kind 'narrow' cannot have {width} {what} of the {most} of a {type(dense).__name__}")
    return torch.arange(width)


def _without_tensors(dense: nn.Module) -> nn.Module:
    layer = copy.copy(dense)
    layer._parameters, layer._buffers = {}, {}
    return layer
