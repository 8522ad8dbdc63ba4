"""Layers of other libraries as torch's: a subclass that computes the same becomes the plain layer, one that pads
unevenly a `PaddedConv2d`, and what no other layer can take the place of is marked."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from paredown.core.modes import evaluating, hooked
from paredown.layers.padded import PaddedConv2d
from paredown.layers.replaceable import LEFT_ALONE, READ, is_plain, left_alone

CLOSE = 1e-5  # of the largest output: between two kernels for the same convolution
SHOWN = 3
IMAGES = 4  # dimensions
UNEVEN = "it pads its images unevenly"
OF_TORCH = "torch.nn.utils."  # hooks that compute a layer's weight, which whatever replaces the layer takes as it is
log = logging.getLogger("paredown")


def settle(module: nn.Module, input_shape: tuple[int, ...]) -> nn.Module:
    """Return `module` with each convolution and linear layer of a class of its own that, on images of `input_shape`,
    computes what a plain one with some padding does as that plain layer, or as a PaddedConv2d where that is uneven.
    These, all others, and those whose weights are used without a call or in several places, that have hooks, or are
    called by keyword, are marked as `left alone`; those whose attributes the network's code reads as `read`. Both are
    logged."""
    _unmark(module)
    called = _inputs(module, input_shape)
    places = Counter(id(layer) for _, layer in module.named_modules(remove_duplicate=False))
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    weights = Counter(id(layer.weight) for layer in layers.values())
    why: dict[str, str] = {}
    for name, layer in layers.items():
        if name not in called:
            why[name] = "its weights are used without a call, or not at all"
        elif called[name] is None:
            why[name] = "it is called by keyword"
        elif places[id(layer)] > 1 or weights[id(layer.weight)] > 1:
            why[name] = "its weights are shared"
        elif _hooked(layer):
            why[name] = "it has a hook, which no other layer would call"
        elif not is_plain(layer):
            if (plain := _plain(layer, called[name])) is None:
                why[name] = f"{type(layer).__name__} computes something else than torch's layer"
            elif name:
                module.set_submodule(name, plain)
                if isinstance(plain, PaddedConv2d):
                    why[name] = UNEVEN
    for name, reason in why.items():
        setattr(module.get_submodule(name), LEFT_ALONE, reason)
    for name in _read(module, [name for name in layers if name and name not in why], input_shape):
        setattr(module.get_submodule(name), READ, "the network's code looks at what it is: nothing but masks fits it")
    left = {
        name: getattr(layer, LEFT_ALONE, getattr(layer, READ, "it is inside torch's attention"))
        for name, layer in left_alone(module).items()
    }
    if left:
        _tell(type(module).__name__, tuple(left.items()), len(layers))
    return module


def _unmark(module: nn.Module) -> None:
    """Take the marks of an earlier time off the layers of `module`."""
    for layer in module.modules():
        for mark in (LEFT_ALONE, READ):
            if hasattr(layer, mark):
                delattr(layer, mark)


@cache
def _tell(network: str, left: tuple[tuple[str, str], ...], layers: int) -> None:
    """Log once which layers of `network` stay as they are."""
    reasons = "; ".join(
        f"{', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if len(names) > SHOWN else ''} ({reason})"
        for reason, names in ((r, [name for name, why in left if why == r]) for r in dict.fromkeys(dict(left).values()))
    )
    log.info(
        "%s: %d of %d convolutions and linear layers are left as they are: %s", network, len(left), layers, reasons
    )


@torch.no_grad()
def _inputs(module: nn.Module, input_shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the input of the first call of each convolution and linear layer of `module`, of a class of its own, for
    an image of noise; an empty tensor for a plain one, None for one that is called by keyword."""
    found: dict[str, Any] = {}

    def note(name: str) -> Any:
        def hook(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            kept = torch.empty(0) if is_plain(layer) or not inputs else inputs[0].clone()
            found[name] = None if not inputs else found.get(name, kept)

        return hook

    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    with hooked(layer.register_forward_pre_hook(note(name)) for name, layer in layers), evaluating(module):
        module(_noise(input_shape))
    return found


def _noise(input_shape: tuple[int, ...]) -> Tensor:
    return torch.randn(1, *input_shape, generator=torch.Generator().manual_seed(0))


def _hooked(layer: nn.Module) -> bool:
    """Tell whether a hook of the user's acts on what `layer` takes or gives."""
    hooks = (*layer._forward_hooks.values(), *layer._forward_pre_hooks.values())
    return any(not type(hook).__module__.startswith(OF_TORCH) for hook in hooks)


class _Called(nn.Module):
    """A layer of which nothing can be had but what it gives."""

    call: Any

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        object.__setattr__(self, "call", layer)  # no submodule, which code that walks through modules would find

    def forward(self, x: Tensor) -> Any:
        """Give what the layer gives."""
        return self.call(x)


@torch.no_grad()
def _read(module: nn.Module, names: list[str], input_shape: tuple[int, ...]) -> list[str]:
    """Return those of the layers `names` without whose attributes and class `module` fails, or, where it gives the
    same twice, gives something else."""
    with evaluating(module):
        logits, again = module(_noise(input_shape)), module(_noise(input_shape))
    steady = torch.equal(logits, again)

    def differs(some: list[str]) -> bool:
        layers = {name: module.get_submodule(name) for name in some}
        try:
            for name, layer in layers.items():
                module.set_submodule(name, _Called(layer))
            with evaluating(module):
                return not torch.equal(module(_noise(input_shape)), logits) and steady
        except Exception:  # whatever the user's forward raises
            return True
        finally:
            for name, layer in layers.items():
                module.set_submodule(name, layer)

    return [name for name in names if differs([name])] if differs(names) else []


@torch.no_grad()
def _plain(layer: Any, x: Tensor) -> nn.Module | None:
    """Return a plain layer, or a PaddedConv2d, with the parameters of `layer` that computes the same from `x`; None
    where none does."""
    expected = layer(x)
    for candidate in (*_candidates(layer), *_padded(layer, x, expected)):
        candidate.weight, candidate.bias = layer.weight, layer.bias
        candidate.train(layer.training)
        if {*dict(layer.named_parameters()), *dict(layer.named_buffers())} != set(dict(candidate.named_parameters())):
            return None
        try:
            found = candidate(x)
        except RuntimeError:  # a kernel larger than the image without its padding
            continue
        if found.shape == expected.shape and (found - expected).abs().max() <= CLOSE * expected.abs().max():
            return candidate
    return None


def _candidates(layer: Any) -> Iterator[Any]:
    """Yield plain layers of the sizes of `layer`: a convolution with its own padding, and with half of its kernel."""
    if isinstance(layer, nn.Linear):
        yield nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        return
    sizes = (layer.in_channels, layer.out_channels, tuple(layer.kernel_size))
    same = tuple(d * (k - 1) // 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True))
    settings = {"stride": tuple(layer.stride), "dilation": tuple(layer.dilation), "groups": layer.groups}
    for padding in dict.fromkeys((layer.padding if isinstance(layer.padding, str) else tuple(layer.padding), same)):
        yield nn.Conv2d(*sizes, padding=padding, bias=layer.bias is not None, device="meta", **settings)


def _padded(layer: Any, x: Tensor, expected: Tensor) -> Iterator[PaddedConv2d]:
    """Yield the convolution with as many zeros as make `x` give maps as large as `expected`, an odd one at the end."""
    if isinstance(layer, nn.Linear) or expected.dim() != x.dim() or x.dim() != IMAGES:
        return
    geometry = zip(layer.kernel_size, layer.stride, layer.dilation, x.shape[2:], expected.shape[2:], strict=True)
    missing = [(after - 1) * s + d * (k - 1) + 1 - before for k, s, d, before, after in geometry]
    if min(missing) < 0:
        return
    (top, bottom), (left, right) = ((zeros // 2, zeros - zeros // 2) for zeros in missing)
    settings = {"stride": layer.stride, "dilation": layer.dilation, "groups": layer.groups, "device": "meta"}
    sizes = (layer.in_channels, layer.out_channels, tuple(layer.kernel_size))
    yield PaddedConv2d(*sizes, (left, right, top, bottom), bias=layer.bias is not None, **settings)
