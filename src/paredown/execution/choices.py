"""What `optimise` found, as plain JSON data, and the check of what was read from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paredown.errors import UserError
from paredown.plan import Network

Choices = dict[str, Any]


def checked(choices: Mapping[str, Any], network: Network) -> None:
    """UserError where `choices` are not what `optimise` writes, or belong to another network."""
    if not isinstance(choices, Mapping):
        raise UserError(f"choices of execution are an object of JSON, not {type(choices).__name__}")
