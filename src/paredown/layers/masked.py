"""Layers some of whose weights are fixed at zero, and the kind `masked`, whose mask travels with the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.blueprint import CompressedLayer
from paredown.errors import UserError
from paredown.layers._local import LocallyConnected2d


class Masked(CompressedLayer):
    """A layer whose `weight` is multiplied by the boolean `mask` of the same shape.

    Masked weights start at zero and get no gradient, so neither momentum nor weight decay revives them.
    `persistent` puts the mask into the state dict; without it, whoever builds the layer must know the mask.
    """

    mask: Tensor
    weight: Tensor
    bias: Any  # which torch's layers declare each in its own way

    def _become(self, dense: nn.Module, mask: Tensor, persistent: bool) -> None:
        """Take over the values of `dense` under `mask`."""
        weight: Tensor = dense.weight  # type: ignore[assignment]
        if mask.shape != weight.shape:
            raise UserError(f"a mask of shape {tuple(mask.shape)} for a weight of {tuple(weight.shape)}")
        self.register_buffer("mask", mask.to(weight.device, torch.bool), persistent=persistent)
        self.weight = nn.Parameter(weight.detach() * self.mask)
        self.bias = _copied(getattr(dense, "bias", None))
        self.train(dense.training)

    def set_mask(self, mask: Tensor) -> None:
        """Replace the mask, in place, and zero the weights it removes."""
        with torch.no_grad():
            self.mask.copy_(mask)
            self.weight.mul_(self.mask)

    def effective_weight(self) -> Tensor:
        """The weight that the layer uses, in its shape, zeros in place."""
        return self.weight * self.mask

    def active_weights(self) -> int:
        """How many weights the mask leaves."""
        return int(self.mask.sum())


class MaskedConv2d(Masked, nn.Conv2d):
    """A copy of `dense` whose weight (N, M/groups, K, K) is masked."""

    def __init__(self, dense: nn.Conv2d, mask: Tensor, persistent: bool = True) -> None:
        super().__init__(**_settings(dense), device="meta")  # no values are drawn: they come from `dense`
        self._become(dense, mask, persistent)

    def forward(self, x: Tensor) -> Tensor:
        """(B, M, H, W) to (B, N, H', W')."""
        return self._conv_forward(x, self.effective_weight(), self.bias)

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """One multiply-add per active weight and output position; `input_shape` is (channels, height, width)."""
        height, width = (output_size(self, axis, input_shape[axis + 1]) for axis in (0, 1))
        return self.active_weights() * height * width

    def deployed(self) -> nn.Conv2d:
        """A plain convolution with the zeros written into its weight."""
        return _plain(self, nn.Conv2d(**_settings(self), device="meta"))


class MaskedLinear(Masked, nn.Linear):
    """A copy of `dense` whose weight (N, M) is masked."""

    def __init__(self, dense: nn.Linear, mask: Tensor, persistent: bool = True) -> None:
        super().__init__(dense.in_features, dense.out_features, dense.bias is not None, device="meta")
        self._become(dense, mask, persistent)

    def forward(self, x: Tensor) -> Tensor:
        """(..., M) to (..., N)."""
        return functional.linear(x, self.effective_weight(), self.bias)

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """One multiply-add per active weight and row of the input."""
        return self.active_weights() * math.prod(input_shape[:-1])

    def deployed(self) -> nn.Linear:
        """A plain linear layer with the zeros written into its weight."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        return _plain(self, plain)


class MaskedLocal2d(Masked, LocallyConnected2d):
    """A copy of `dense` whose weight (positions, taps, F) is masked, on dead taps always."""

    def __init__(self, dense: LocallyConnected2d, mask: Tensor, persistent: bool = True) -> None:
        super().__init__(
            dense.in_channels, dense.out_channels, dense.kernel_size, dense.stride, dense.padding, dense.size
        )
        self._become(dense, mask & self.live, persistent)

    def set_mask(self, mask: Tensor) -> None:
        """Replace the mask, in place, and zero the weights it removes; dead taps stay dead."""
        super().set_mask(mask & self.live)

    def used_weight(self) -> Tensor:
        """What `forward` multiplies by."""
        return self.effective_weight()


KINDS: dict[type[nn.Module], type[Any]] = {
    nn.Conv2d: MaskedConv2d,
    nn.Linear: MaskedLinear,
    LocallyConnected2d: MaskedLocal2d,
}


def maskable(network: nn.Module) -> dict[str, nn.Module]:
    """The layers of `network` that the kind `masked` can take the place of, those it has taken too, by name."""
    kinds = nn.Conv2d | nn.Linear | LocallyConnected2d
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, kinds)}


def build(dense: nn.Module) -> Masked:
    """The kind `masked`: all weights active until `set_mask`. Raises UserError where `dense` is none of KINDS."""
    kind = next((masked for plain, masked in KINDS.items() if isinstance(dense, plain)), None)
    if kind is None:
        kinds = ", ".join(plain.__name__ for plain in KINDS)
        raise UserError(f"kind 'masked' replaces one of {kinds}, not a {type(dense).__name__}")
    weight: Tensor = dense.weight  # type: ignore[assignment]
    return kind(dense, torch.ones_like(weight, dtype=torch.bool))


def effective_weight(conv: nn.Conv2d) -> Tensor:
    """The weight that `conv` uses: masked where it is a MaskedConv2d, else as stored."""
    return conv.effective_weight() if isinstance(conv, MaskedConv2d) else conv.weight


def _copied(bias: Tensor | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone())


def _plain(masked: Masked, plain: Any) -> Any:
    """`plain` with the values of `masked`, the zeros in place."""
    plain.weight = nn.Parameter(masked.effective_weight().detach().clone())
    plain.bias = _copied(masked.bias)
    return plain.train(masked.training)


def _settings(conv: nn.Conv2d) -> dict[str, Any]:
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(conv, name) for name in names} | {"bias": conv.bias is not None}


def output_size(conv: nn.Conv2d, axis: int, size: int) -> int:
    """How long the output of `conv` is along `axis` (0: height, 1: width) for an input of `size`."""
    reach = conv.dilation[axis] * (conv.kernel_size[axis] - 1)
    named = {"same": reach, "valid": 0}
    padding = named[conv.padding] if isinstance(conv.padding, str) else 2 * int(conv.padding[axis])
    return (size + padding - reach - 1) // conv.stride[axis] + 1
