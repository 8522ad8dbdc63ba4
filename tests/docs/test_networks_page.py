"""The page of other libraries' networks is the one that its script writes: its rows, columns and notes."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "networks.md"


@pytest.fixture(scope="module")
def networks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("networks", ROOT / "scripts" / "networks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_the_rows_are_the_networks_of_the_script_and_the_columns_its_methods(networks: ModuleType) -> None:
    text = PAGE.read_text(encoding="utf-8")
    head, _, families, *rows = table(text)
    assert text.startswith(networks.HEAD)
    assert head == ["network", *networks.METHODS]
    assert families == ["*family*", *(family for family, _ in networks.METHODS.values())]
    assert [row[0] for row in rows] == [name for names in networks.NETWORKS.values() for name in names]
    cells = [cell for row in rows for cell in row[1:]]
    assert all(re.fullmatch(r"\d+\.\d\dx, \d+%|\[\d+\]", cell) for cell in cells)
    notes = re.findall(r"^\* \[(\d+)\] (\w+): .", text, re.MULTILINE)
    assert {number for number, _ in notes} == {cell.strip("[]") for cell in cells if cell.startswith("[")}
    assert {method for _, method in notes} <= set(networks.METHODS)
    # a refusal is a sentence of ours, what failed begins with the error's name
    assert not re.search(r"^\* \[\d+\] \w+: \w+Error: ", text, re.MULTILINE)


def test_a_page_is_made_of_kept_cells_alone(networks: ModuleType, tmp_path: Path) -> None:
    cells: dict[str, dict[str, object]] = {name: {"speed_up": 1.5, "sparsity": 0.25} for name in networks.METHODS}
    cells["ssc"] = {"refused": "there is nothing to replace"}
    (tmp_path / "resnet34.json").write_text(json.dumps(cells))
    found = networks.row("torchvision", "resnet34", tmp_path)
    lines = list(networks.page({"resnet34": found}))
    assert "| resnet34 | 1.50x, 25% | [1] |" in "\n".join(lines)
    assert lines[-1] == "* [1] ssc: there is nothing to replace"


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/tutorials/your_network.md", "mkdocs.yml"])
def test_the_page_is_linked_where_networks_are_spoken_of(page: str) -> None:
    assert "networks.md" in (ROOT / page).read_text(encoding="utf-8")
