"""Every published row that can be run, composed once for all tests."""

from __future__ import annotations

from typing import Any

import pytest

from paredown.core.config import compose_all
from paredown.core.errors import UserError
from paredown.published import load
from paredown.published.settings import overrides

Composed = list[tuple[dict[str, Any], dict[str, Any]]]


@pytest.fixture(scope="session")
def composed() -> Composed:
    """Each row, and the configuration that reproduces it."""
    found = []
    for _, row in load().iterrows():
        try:
            found.append((dict(row), overrides(dict(row))))
        except UserError:
            continue
    configs = compose_all([words for _, words in found])
    return [(row, config) for (row, _), config in zip(found, configs, strict=True)]
