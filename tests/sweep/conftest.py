"""Sweep files of a few tiny experiments on the embedded digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

TINY = """
overrides: [dataset=digits, model=resnet20, model.depth=8, dataset.fraction=0.1, recipe.epochs=2, latency.seconds=0.02]
"""


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], list[str]]:
    """Return a function that writes a sweep file starting with `TINY` and returns the arguments that run it."""

    def write(text: str, name: str = "tiny") -> list[str]:
        path = tmp_path / f"{name}.yaml"
        path.write_text(TINY + text)
        return [f"sweep={path}", "trust=steps", f"output={tmp_path / 'out'}"]

    return write
