"""Networks that another library builds by name: what is refused of them, and their errors as one line."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn

from paredown.core.errors import UserError, named_reason
from paredown.models.head import logits_of
from paredown.models.plain import settle

WRONG = (TypeError, ValueError, RuntimeError, AssertionError)  # what the libraries raise for wrong arguments


def built(
    name: str, arguments: Mapping[str, Any], build: Callable[[], nn.Module], input_shape: tuple[int, int, int]
) -> nn.Module:
    """Return the network that `build` makes, `name` with the user's `arguments`, made plain. Raise UserError for
    arguments that its function does not take, and where it cannot take images of `input_shape`."""
    try:
        found = build()
    except WRONG as error:
        raise UserError(f"model.name={name} with model.arguments={dict(arguments)}: {named_reason(error)}") from error
    logits_of(found, input_shape)  # an image that is too small is said in one line
    return settle(found, input_shape)


def refuse_decided(arguments: Mapping[str, Any], decided: Collection[str]) -> None:
    """Raise UserError for an argument that is not for the user."""
    if wrong := [key for key in arguments if key in decided]:
        raise UserError(f"model.arguments.{wrong[0]}: this is decided by the images and by model.weights")


def alternatives(name: str, known: Sequence[str]) -> str:
    """Return "did you mean ...? " with the `known` names that are nearest; nothing where none is near."""
    close = get_close_matches(str(name).lower(), known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}? " if close else ""
