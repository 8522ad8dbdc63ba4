"""The classifier of a network, found by following its output back to the weights, and one for other classes."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from paredown.core.errors import UserError, named_reason
from paredown.core.modes import evaluating
from paredown.core.unchanged import once

PROBE = 2  # images of the trial: one would not show a network that takes the batch for something else
REPAIR = "return the logits alone, a tensor of one row per image"


@torch.enable_grad()
def logits_of(module: nn.Module, input_shape: tuple[int, ...]) -> Tensor:
    """Return what `module` gives for PROBE images of zeros, in eval mode (PROBE, classes). Raise UserError where it
    fails, or gives anything but a row of numbers per image."""
    name = type(module).__name__
    images = torch.zeros(PROBE, *input_shape, device=next((tensor.device for tensor in module.parameters()), None))
    with evaluating(module):
        found = _given(module, images, f"on an image of shape {tuple(input_shape)}")
        alone = _given(module, images[:1], "on one image alone, as the last of an evaluation may be")
    if not isinstance(found, Tensor):
        raise UserError(f"{name} returns {_named(found)}, not logits: {REPAIR}")
    if found.dim() != 2 or len(found) != PROBE:
        raise UserError(
            f"{name} returns a tensor of shape {tuple(found.shape)} for {PROBE} images, not {PROBE} rows of logits: it "
            "is no classifier"
        )
    if alone.shape != found[:1].shape:
        raise UserError(
            f"{name} returns a tensor of shape {tuple(alone.shape)} for one image, {tuple(found.shape)} for {PROBE}: "
            "flatten(1) keeps the dimension of the batch, where squeeze() does not"
        )
    return found


@once
def require_logits_in_training(module: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Raise UserError where `module` in training mode fails, or gives anything but one row of logits per image, as one
    with a second classifier does. A copy of it is tried, and the generators stay where they were."""
    trial, name = copy.deepcopy(module).cpu().train(), type(module).__name__
    with torch.random.fork_rng(devices=[]):
        found = _given(trial, torch.zeros(PROBE, *input_shape), "in training mode")
    if not isinstance(found, Tensor):
        raise UserError(f"{name} returns {_named(found)} in training mode, not logits: {REPAIR}, in both modes")
    if found.dim() != 2 or len(found) != PROBE:
        raise UserError(
            f"{name} returns a tensor of shape {tuple(found.shape)} for {PROBE} images in training mode: {REPAIR}"
        )


def _given(module: nn.Module, images: Tensor, where: str) -> Any:
    """Return what `module` gives for `images`. Raise UserError, saying `where`, for whatever its code raises."""
    try:
        return module(images)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{type(module).__name__} does not run {where}: {named_reason(error)}") from error


def _named(found: object) -> str:
    """Name what is returned in the place of logits."""
    keys = f" of {', '.join(map(str, list(found)[:3]))}" if isinstance(found, dict) else ""
    return f"a {type(found).__name__}{keys}"


def find_classifier(module: nn.Module, input_shape: tuple[int, ...]) -> str | None:
    """Return the name of the linear layer or convolution whose weights are nearest to the output of `module`, by the
    graph of its gradient; None where that is no layer with one output per class."""
    logits = logits_of(module, input_shape)
    weight = _nearest_weight(logits)
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    found = next((name for name, layer in layers.items() if layer.weight is weight), None)
    return None if weight is None or len(weight) != logits.shape[1] else found


def require_classifier(module: nn.Module, input_shape: tuple[int, ...]) -> str:
    """Return what `find_classifier` finds. Raise UserError where it finds none."""
    name = find_classifier(module, input_shape)
    if name is None:
        raise UserError(
            f"model.head=new: what the output of {type(module).__name__} comes from is no linear layer or convolution "
            f"with one output per class, so that no new one can take its place: give it the classes by its arguments"
        )
    return name


def require_classes(module: nn.Module, input_shape: tuple[int, ...], classes: int) -> None:
    """Raise UserError unless `module` gives logits of `classes` classes for images of `input_shape`."""
    found = logits_of(module, input_shape).shape[1]
    if found != classes:
        raise UserError(
            f"{type(module).__name__} has {found} outputs, the data set {classes} classes: give it as many by its "
            f"arguments, or model.head=new for a new classifier"
        )


def replace_classifier(module: nn.Module, input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return `module` with a new classifier of `classes` outputs in the place of its own, freshly initialised."""
    name = require_classifier(module, input_shape)
    layer: Any = module.get_submodule(name)
    new: nn.Module
    if isinstance(layer, nn.Conv2d):
        settings = {key: getattr(layer, key) for key in ("kernel_size", "stride", "padding", "dilation", "groups")}
        new = nn.Conv2d(layer.in_channels, classes, **settings, bias=layer.bias is not None)
    else:
        new = nn.Linear(layer.in_features, classes, bias=layer.bias is not None)
    if not name:
        return new
    module.set_submodule(name, new)
    return module


def _nearest_weight(output: Tensor) -> Tensor | None:
    """Return the parameter of two dimensions or more with the fewest operations between it and `output`."""
    waiting, seen = deque([output.grad_fn]), {output.grad_fn}
    while waiting:
        node: Any = waiting.popleft()
        for above, _ in node.next_functions if node is not None else ():
            parameter = getattr(above, "variable", None)
            if parameter is not None and parameter.dim() > 1:
                return parameter
            if above is not None and above not in seen:
                seen.add(above)
                waiting.append(above)
    return None
