"""Networks of the user's code: whatever a function or class in a file or an installed package returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from paredown.core.constraints import Count
from paredown.core.errors import UserError, named_reason, nearest
from paredown.core.keys import identity
from paredown.core.source import Source, find_source, line_in, load_source
from paredown.models.head import logits_of, replace_classifier
from paredown.models.live import copied
from paredown.models.plain import settle

SETTING = "model.source"
Head = Literal["keep", "new"]
# what others call the arguments that the images decide
NAMES: Mapping[str, tuple[str, ...]] = {
    "num_classes": ("num_classes", "n_classes", "nb_classes", "num_labels", "classes"),
    "in_channels": ("in_channels", "in_chans", "input_channels", "channels"),
    "image_size": ("image_size", "img_size", "input_size"),
}


@identity("custom", 3, unkeyed=("source",))
def custom(
    source: str,
    digest: str,
    arguments: Mapping[str, Any] | None = None,
    head: Head = "keep",
    num_classes: Count = 1000,
    in_channels: Count = 3,
    image_size: tuple[Count, Count] = (224, 224),
) -> nn.Module:
    """Call what `source` names, FILE.py:NAME or package.module:NAME, with `arguments`, and the classes, channels and
    size of the images as far as it takes them. `digest` is that of its text. `head="new"` gives a network
    of other classes a new classifier. Raise UserError where the user does not trust it, or it gives no network."""
    found = find_source(source, SETTING, digest)
    build = load_source(found, digest, SETTING)
    fitted = {"num_classes": num_classes, "in_channels": in_channels, "image_size": tuple(image_size)}
    module = _called(build, found, _taken(build, fitted, arguments or {}, found))
    shape = (in_channels, *image_size)
    if any(map(is_lazy, (*module.parameters(), *module.buffers()))):
        logits_of(module, shape)  # the first images give lazy layers their shapes
    if logits_of(module, shape).shape[1] != num_classes and head == "new":
        module = replace_classifier(module, shape, num_classes)
    copied(module)  # as every stage does
    return settle(module, shape)


def _taken(
    build: Callable[..., Any], fitted: Mapping[str, Any], arguments: Mapping[str, Any], source: Source
) -> dict[str, Any]:
    """Return `arguments`, and what of `fitted` the signature of `build` has under one of its usual NAMES. Raise
    UserError for an argument that it does not have."""
    try:
        parameters = inspect.signature(build).parameters
    except (ValueError, TypeError):  # builtins
        return dict(arguments)
    every = any(item.kind is inspect.Parameter.VAR_KEYWORD for item in parameters.values())
    if unknown := [name for name in arguments if name not in parameters and not every]:
        known = [name for name in parameters if name not in ("args", "self")]
        raise UserError(f"model.arguments.{unknown[0]} is no argument of {source}: {nearest(unknown[0], known)}")
    found: dict[str, Any] = {}
    for meaning, value in fitted.items():
        name = next((name for name in NAMES[meaning] if name in parameters), None)
        if name is not None:
            square = meaning == "image_size" and isinstance(parameters[name].default, int)
            found[name] = value[0] if square else value
    return found | dict(arguments)


def _called(build: Callable[..., Any], source: Source, arguments: Mapping[str, Any]) -> nn.Module:
    try:
        module = build(**arguments)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise UserError(f"{source.name}({given}) raised {named_reason(error)}{line_in(error, source)}") from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{SETTING}={source} returns a {type(module).__name__}, not a torch.nn.Module")
    _require_float32(module, source)
    return module


def _require_float32(module: nn.Module, source: Source) -> None:
    for name, parameter in module.named_parameters():
        if parameter.dtype != torch.float32:
            raise UserError(f"{SETTING}={source}: {name} is {parameter.dtype}: return the network in torch.float32")
        if parameter.is_meta:
            raise UserError(f"{SETTING}={source}: {name} has no values (it is on the device meta)")
