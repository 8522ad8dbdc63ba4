"""The checks every model builder makes on what the user wrote under `model.`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from paredown.errors import UserError, nearest


def require_count(name: str, value: Any) -> None:
    """Raise UserError unless `value` is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"model.{name}={value!r} is not a whole number of at least 1")


def require_choice(name: str, value: Any, options: Iterable[Any]) -> None:
    """Raise UserError, naming the nearest of `options`, unless `value` is one of them."""
    options = list(options)
    if value not in options:
        raise UserError(f"model.{name}={value!r} is unknown: {nearest(value, options)}")
