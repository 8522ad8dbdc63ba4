"""The convolutions and linear layers that another layer can take the place of: those that compute what torch's do."""

from __future__ import annotations

from torch import nn

from paredown.core.compressed import CompressedLayer

LEFT_ALONE = "__paredown_left_alone__"  # why a layer must stay, on its module; see `models.plain`
READ = "__paredown_read__"  # why no layer without its attributes can take its place
PLAIN = (nn.Conv2d.forward, nn.Linear.forward)
INSIDE_ATTENTION = nn.modules.linear.NonDynamicallyQuantizableLinear  # used without a call


def is_plain(layer: nn.Module) -> bool:
    """Tell whether `layer` computes as torch's convolution or linear layer: a subclass may pad, or scale weights."""
    return type(layer).forward in PLAIN and getattr(type(layer), "_conv_forward", None) in (
        None,
        nn.Conv2d._conv_forward,
    )


def is_replaceable(layer: nn.Module, *, alike: bool = False) -> bool:
    """Tell whether another layer can take the place of the convolution or linear `layer`; one of the same attributes
    where it is to be `alike`, as a masked layer is."""
    plain = isinstance(layer, CompressedLayer) or is_plain(layer)
    fixed = isinstance(layer, INSIDE_ATTENTION) or hasattr(layer, LEFT_ALONE)
    return plain and not fixed and (alike or not hasattr(layer, READ))


def left_alone(model: nn.Module, *, alike: bool = False) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers of `model` that stay as they are, by name; see `is_replaceable`."""
    kinds = nn.Conv2d | nn.Linear
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
    return {name: layer for name, layer in layers.items() if not is_replaceable(layer, alike=alike)}
