"""Layers with masked weights, the kind `masked`, whose mask is saved with the weights, and the choice of masks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core.compressed import CompressedLayer
from paredown.core.errors import UserError
from paredown.layers.geometry import output_size, settings
from paredown.layers.local import LocallyConnected2d
from paredown.layers.replaceable import is_replaceable


class Masked(CompressedLayer):
    """A layer whose `weight` is multiplied by the boolean `mask` of the same shape.

    Masked weights start at zero and get no gradient, unless `dense_gradient` lets it through, so neither momentum nor
    weight decay moves them; a mask that changes while an optimiser runs needs `move_mask`. `persistent` puts the mask
    into the state dict; without it, whoever builds the layer must know the mask.
    """

    dense_gradient = False

    mask: Tensor
    weight: Tensor
    bias: Any  # torch's layers declare it with different types

    def _copy_from(self, dense: nn.Module, mask: Tensor, persistent: bool = True) -> None:
        """Copy the values of `dense` under `mask`."""
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

    @torch.no_grad()
    def move_mask(self, mask: Tensor, optimizer: torch.optim.Optimizer, kept: Tensor | None = None) -> None:
        """Replace the mask in the middle of a fit. Weights that leave or join start from zero, in `optimizer` too: its
        state (momentum, moments) would go on moving them. So does one that leaves and joins at once, outside of `kept`
        (None: such a one stays)."""
        old = self.mask.clone() if kept is None else self.mask & kept
        self.weight.mul_(old)  # momentum, or a dense gradient, may have moved masked weights
        self.set_mask(mask)
        old &= self.mask
        if self.weight.grad is not None:  # of the old mask; the optimiser's step may be yet to come
            self.weight.grad.mul_(old)
        for value in optimizer.state[self.weight].values():
            if isinstance(value, Tensor) and value.shape == self.weight.shape:
                value.mul_(old)

    def effective_weight(self) -> Tensor:
        """Compute the weight that the layer uses, in its shape, zeros in place. With `dense_gradient` its gradient
        reaches every weight (a straight-through estimator)."""
        masked = self.weight * self.mask
        return masked.detach() + (self.weight - self.weight.detach()) if self.dense_gradient else masked

    def active_weights(self) -> int:
        """Count the weights that the mask keeps."""
        return int(self.mask.sum())

    def budget(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entry of a masked layer with as many weights, wherever they are."""
        return {"kind": "masked", "weights": self.active_weights()}


class MaskedConv2d(Masked, nn.Conv2d):
    """A copy of `dense` whose weight (N, M/groups, K, K) is masked."""

    def __init__(self, dense: nn.Conv2d, mask: Tensor, persistent: bool = True) -> None:
        super().__init__(**settings(dense), device="meta")  # on "meta" no values are drawn
        self._copy_from(dense, mask, persistent)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, M, H, W) to (B, N, H', W')."""
        return self._conv_forward(x, self.effective_weight(), self.bias)

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Count one multiply-add per active weight and output position; `input_shape` is (channels, height, width)."""
        return self.active_weights() * math.prod(output_size(self, *input_shape[1:]))

    def deployed(self) -> nn.Module:
        """Return a plain convolution with zeros in its weight."""
        return _plain(self, nn.Conv2d(**settings(self), device="meta"))


class MaskedLinear(Masked, nn.Linear):
    """A copy of `dense` whose weight (N, M) is masked."""

    def __init__(self, dense: nn.Linear, mask: Tensor) -> None:
        super().__init__(dense.in_features, dense.out_features, dense.bias is not None, device="meta")
        self._copy_from(dense, mask)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., M) to (..., N)."""
        return functional.linear(x, self.effective_weight(), self.bias)

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Count one multiply-add per active weight and row of the input."""
        return self.active_weights() * math.prod(input_shape[:-1])

    def deployed(self) -> nn.Linear:
        """Return a plain linear layer with zeros in its weight."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        return _plain(self, plain)


class MaskedLocal2d(Masked, LocallyConnected2d):
    """A copy of `dense` whose weight (positions, taps, F) is masked; dead taps always are."""

    def __init__(self, dense: LocallyConnected2d, mask: Tensor) -> None:
        super().__init__(
            dense.in_channels, dense.out_channels, dense.kernel_size, dense.stride, dense.padding, dense.size
        )
        self._copy_from(dense, mask & self.live)

    def set_mask(self, mask: Tensor) -> None:
        """Replace the mask, in place, and zero the weights it removes; dead taps stay dead."""
        super().set_mask(mask & self.live)

    def used_weight(self) -> Tensor:
        """Return the weight that `forward` uses."""
        return self.effective_weight()


KINDS: dict[type[nn.Module], type[Any]] = {
    nn.Conv2d: MaskedConv2d,
    nn.Linear: MaskedLinear,
    LocallyConnected2d: MaskedLocal2d,
}


def maskable(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of `model` that the kind `masked` can replace, including masked ones, by name."""
    kinds = nn.Conv2d | nn.Linear | LocallyConnected2d
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
    return {
        name: layer
        for name, layer in layers.items()
        if isinstance(layer, LocallyConnected2d) or is_replaceable(layer, alike=True)
    }


def build(dense: nn.Module) -> Masked:
    """Build the kind `masked`, all weights active until `set_mask`. Raise UserError if `dense` is none of KINDS."""
    kind = next((masked for plain, masked in KINDS.items() if isinstance(dense, plain)), None)
    if kind is None:
        kinds = ", ".join(plain.__name__ for plain in KINDS)
        raise UserError(f"kind 'masked' replaces one of {kinds}, not a {type(dense).__name__}")
    weight: Tensor = dense.weight  # type: ignore[assignment]
    return kind(dense, torch.ones_like(weight, dtype=torch.bool))


def allowed(layer: nn.Module) -> Tensor:
    """Return where a mask of `layer` may be true: everywhere but at a locally connected layer's dead taps."""
    weight = cast(Tensor, layer.weight)
    live = cast(Tensor, getattr(layer, "live", torch.ones_like(weight, dtype=torch.bool)))
    return live.expand_as(weight)


def random_mask(allowed: Tensor, weights: int, generator: torch.Generator) -> Tensor:
    """Draw a mask of exactly `weights` of the entries that are true in `allowed`, every such set equally likely. It has
    the shape of `allowed`, is on the CPU and follows from `generator` alone."""
    places = allowed.cpu().flatten().nonzero()[:, 0]
    mask = torch.zeros(allowed.numel(), dtype=torch.bool)
    mask[places[torch.randperm(len(places), generator=generator)[:weights]]] = True
    return mask.reshape(allowed.shape)


def select(scores: Mapping[str, Tensor], kept: int, least: int = 0) -> dict[str, Tensor]:
    """Return masks that keep the `kept` largest of all layers' `scores`, among them the `least` largest of each layer.

    A score of -inf marks a weight that must not be kept. Ties go to the earlier layer, then to the lower row-major
    index, as in a stable descending sort, but in linear time. Raise UserError, naming the layer, for NaN and inf, and
    where `kept` is more than may be kept or less than `least` asks for.
    """
    flat = {name: values.detach().flatten() for name, values in scores.items()}
    for name, values in flat.items():
        if values.isnan().any() or values.isposinf().any():
            raise UserError(f"the scores of layer {name!r} are not finite: a loss of NaN, or an overflow")
    candidates = [int((~values.isneginf()).sum()) for values in flat.values()]
    floor = sum(min(least, count) for count in candidates)
    if not floor <= kept <= sum(candidates):
        raise UserError(f"cannot keep {kept} weights: {sum(candidates)} may stay, and {floor} must (least={least})")
    chosen = [largest(values, min(least, count)) for values, count in zip(flat.values(), candidates, strict=True)]
    every, first = torch.cat(list(flat.values())), torch.cat(chosen)
    masks = first | largest(every.masked_fill(first, -math.inf), kept - floor)
    parts = masks.split([len(values) for values in flat.values()])
    return {name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}


def largest(scores: Tensor, kept: int) -> Tensor:
    """Return a mask of the `kept` largest of `scores` (n,), ties to the lower index."""
    if kept == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(len(scores) - kept + 1).values
    mask = scores > threshold
    mask[(scores == threshold).nonzero()[: kept - int(mask.sum()), 0]] = True
    return mask


def effective_weight(conv: nn.Conv2d) -> Tensor:
    """Return the weight that `conv` uses: masked if it is a MaskedConv2d, else as stored."""
    return conv.effective_weight() if isinstance(conv, MaskedConv2d) else conv.weight


def _copied(bias: Tensor | None) -> nn.Parameter | None:
    return None if bias is None else nn.Parameter(bias.detach().clone())


def _plain(masked: Masked, plain: Any) -> Any:
    """Give `plain` the values of `masked`, with zeros where masked."""
    plain.weight = nn.Parameter(masked.effective_weight().detach().clone())
    plain.bias = _copied(masked.bias)
    return plain.train(masked.training)
