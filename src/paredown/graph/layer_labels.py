"""The channel labels of what layers compute, and those on the axes of layers that can be narrower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from paredown.graph.labels import Axis, Labels, on_map, signed
from paredown.graph.trace import is_identity, is_plain, shape_of
from paredown.layers.narrow import NORMS
from paredown.layers.shortcut import SubsampleAndPad

ACTIVATIONS = {
    *(nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.SiLU, nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.GELU, nn.LeakyReLU, nn.ELU),
    *(nn.SELU, nn.CELU, nn.Tanh, nn.Softplus, nn.Softsign, nn.Mish, nn.LogSigmoid, nn.Tanhshrink, nn.Softshrink),
    *(nn.Hardshrink, nn.Threshold),
}
POOLS = {
    **dict.fromkeys((nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d), 2),
    **dict.fromkeys((nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d), 1),
    **{nn.Upsample: 2, nn.UpsamplingNearest2d: 2, nn.UpsamplingBilinear2d: 2, nn.LPPool2d: 2},
}


class LayerLabels(fx.Interpreter):
    """The part of a run on labels that calls layers. `axes` are the labels (n,) on each axis of the layers that can be
    narrower, in the order of their calls; `shared` names layers whose weights others use too."""

    labels: Labels
    axes: dict[tuple[str, Axis], Tensor]
    shared: set[str]

    def layer(self, n: fx.Node, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Return the labels of what the layer called by `n` computes; None for what is not followed."""
        layer, name, x = self.fetch_attr(str(n.target)), str(n.target), args[0] if args else next(iter(kwargs.values()))
        if is_plain(layer) and name not in self.shared:
            return self._layer(n, name, layer, x)
        if type(layer) in ACTIVATIONS:
            return signed(x, bool(layer(torch.zeros(1)).item() == 0))
        if type(layer) in POOLS and shape_of(n):
            return self.labels.pooled(x, POOLS[type(layer)], shape_of(n))
        if is_identity(n, self.module) or isinstance(layer, nn.Dropout2d):
            return x
        return self._moved(n, name, layer, x)

    def _moved(self, n: fx.Node, name: str, layer: nn.Module, x: Tensor) -> Tensor | None:
        if isinstance(layer, SubsampleAndPad):
            return self._padded(n, name, layer, x)
        if isinstance(layer, nn.Flatten):
            return cast(Tensor, layer(x))
        if isinstance(layer, nn.Unflatten):
            return self.labels.keep_sizes(layer(x), {layer.dim % x.dim() + at: size for at, size in _literals(layer)})
        return None

    def _layer(self, n: fx.Node, name: str, layer: nn.Module, x: Tensor) -> Tensor | None:
        if isinstance(layer, nn.Linear):
            return self._produced(n, name, layer.out_features, x, -1)
        channels = self.labels.along(x, 1)
        if isinstance(layer, NORMS):
            self._note(name, "out", channels)
            return on_map(channels.abs() if layer.affine else -channels.abs(), x.shape)
        assert isinstance(layer, nn.Conv2d)
        if layer.groups == 1:
            return self._produced(n, name, layer.out_channels, x, 1)
        if layer.groups != layer.in_channels:
            return None
        self._note(name, "in", channels)
        outputs = channels.abs().repeat_interleave(layer.out_channels // layer.in_channels)
        self._note(name, "out", outputs)
        return on_map(outputs, shape_of(n))

    def _produced(self, n: fx.Node, name: str, outputs: int, x: Tensor, dim: int) -> Tensor:
        channels = self.labels.along(x, dim)
        if bool((constant := channels[channels < 0]).numel()):
            self.labels.fix(constant, f"{name} (reads channels that are not zero once they are cut)")
        self._note(name, "in", channels)
        fresh = self.labels.fresh(outputs)
        self._note(name, "out", fresh)
        return on_map(fresh, shape_of(n), dim)

    def _padded(self, n: fx.Node, name: str, layer: SubsampleAndPad, x: Tensor) -> Tensor:
        channels = self.labels.along(x, 1)
        self._note(name, "in", channels)
        # fresh labels for the zeros too: how many there are shrinks with what they are added to
        outputs = torch.cat([channels, self.labels.fresh(layer.extra)])
        self._note(name, "out", outputs)
        return on_map(outputs, shape_of(n))

    def _note(self, name: str, axis: Axis, channels: Tensor) -> None:
        before = self.axes.setdefault((name, axis), channels)
        self.labels.join(before, channels)  # of a layer that is called more than once


def _literals(layer: nn.Unflatten) -> list[tuple[int, int]]:
    return [(at, int(size)) for at, size in enumerate(layer.unflattened_size)]
