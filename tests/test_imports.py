"""Imports point one way."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "paredown"
LEVELS = [
    {"errors", "figures", "frontier", "published"},
    {"plan", "command"},
    {"blueprint", "distributed", "config", "bucket", "store", "tracking"},
    {"report"},
    {"layers", "models", "data"},
    {"cost", "surgery", "correlation", "description_length", "locality"},
    {"execution"},
    {"training"},
    {"methods", "control"},
    {"experiment", "trained"},
    {"conclude"},
    {"execute", "export", "bench"},
    {"summary", "reproduce"},
    {"cli"},
    {"sweep"},
]
UNSAFE = ("pickle.load", "joblib.load", "allow_pickle=True", "weights_only=False")
LEVEL = {name: number for number, names in enumerate(LEVELS) for name in names}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE) != Path("__init__.py"))


def part(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "paredown":
            found |= {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paredown."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("paredown.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_upwards(path: Path) -> None:
    own = LEVEL[part(path)]
    upwards = {name for name in imported(path) - {part(path)} if LEVEL[name] > own}
    assert not upwards


def test_no_pickle_is_loaded() -> None:
    # `data/cifar.py` reads CIFAR's published batches, of known checksums, with a reader that builds arrays only
    for path in FILES:
        text = path.read_text()
        assert not [call for call in UNSAFE if call in text], path
        assert text.count("torch.load(") == text.count("weights_only=True)"), path
