"""Docstrings: functions begin with an imperative verb, everything public has one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "paredown"
FILES = sorted(PACKAGE.rglob("*.py"))
# Ruff's D401 knows what is not imperative ("Returns", "The", "What"); this list is of what is. Add a verb you need.
VERBS = frozenset((Path(__file__).parent / "golden" / "verbs.txt").read_text().split())


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_functions_docstring_begins_with_an_imperative_verb(path: Path) -> None:
    wrong = {
        f"{node.lineno} {node.name}": text.splitlines()[0]
        for node in functions(path)
        if (text := ast.get_docstring(node)) and not is_property(node) and text.split()[0].strip(".,:;") not in VERBS
    }
    assert not wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_classes_and_public_functions_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text())
    bare = [] if ast.get_docstring(tree) or not tree.body else ["the module"]
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            bare += [] if ast.get_docstring(node) else [node.name]
    assert not bare
