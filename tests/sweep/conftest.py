"""Sweep files of a few tiny experiments on the embedded digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

TINY = """
overrides: [dataset=digits, model=resnet20, model.depth=8, dataset.fraction=0.1, recipe.epochs=2, latency.seconds=0.02]
"""


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One Ray at a time: of the processes that test (pytest -n), one gets all slow tests here that start a Ray."""
    here = Path(__file__).parent
    for item in items:
        with_ray = here in item.path.parents and {"Driver", "Node"} & set(vars(item.module))  # type: ignore[attr-defined]
        if with_ray and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], list[str]]:
    """Writes a sweep file that starts with `TINY`; returns the words that run it with an output folder of its own."""

    def write(text: str, name: str = "tiny") -> list[str]:
        path = tmp_path / f"{name}.yaml"
        path.write_text(TINY + text)
        return [f"sweep={path}", f"output={tmp_path / 'out'}"]

    return write
