"""Imports point one way, room against room (a room is a folder of the package); late imports count."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "paredown"
# A room imports from rooms on earlier lines only: not from its neighbours on a line, not from later ones.
LEVELS = [
    {"core"},
    {"layers", "data", "store", "tracking", "frontier", "published"},
    {"models", "cost", "graph", "report"},
    {"surgery", "analysis"},
    {"runtime"},
    {"training"},
    {"methods"},
    {"experiment"},
    {"results"},
    {"run"},
    {"bench", "export", "sweep"},
    {"api", "conformance"},
    {"cli"},
    {"__main__.py"},
]
UNSAFE = (
    *("pickle.load", "Unpickler", "joblib.load", "allow_pickle=True", "weights_only=False"),
    *("hydra.utils", "unsafe_load"),
)
EXECUTING = {"eval", "exec", "__import__"}
PICKLES = {"pickle", "marshal", "dill", "cloudpickle", "shelve"}
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE) != Path("__init__.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


def imported(path: Path) -> set[str]:
    """The modules of the package that `path` imports, anywhere in the file, as dotted names below `paredown`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "paredown":
            inside = (node.module or "").removeprefix("paredown").removeprefix(".")
            found |= {f"{inside}.{alias.name}".removeprefix(".") for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[2] for alias in node.names if alias.name.startswith("paredown.")}
    return found - {"__version__"}


def module_file(name: str) -> Path | None:
    """The file of the module that the dotted `name` is, or that it is an attribute of."""
    for dotted in (name, name.rpartition(".")[0]):
        path = PACKAGE.joinpath(*dotted.split("."))
        if path.with_suffix(".py").is_file():
            return path.with_suffix(".py")
        if (path / "__init__.py").is_file():
            return path / "__init__.py"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_rooms_import_earlier_rooms_only(path: Path) -> None:
    own = LEVEL[room(path)]
    rooms = {name.split(".")[0] for name in imported(path)} - {room(path)}
    assert not {name for name in rooms if LEVEL[name] >= own}


def test_no_import_cycle_between_files() -> None:
    arrows = {path: {file for name in imported(path) if (file := module_file(name)) and file != path} for path in FILES}
    left = dict(arrows)
    while free := [path for path, targets in left.items() if not targets & left.keys()]:
        for path in free:
            del left[path]
    assert not sorted(str(path.relative_to(PACKAGE)) for path in left)


ROOMS = [path for path in sorted(PACKAGE.rglob("__init__.py")) if path.parent != PACKAGE]  # the top one offers the API


@pytest.mark.parametrize("path", ROOMS, ids=lambda path: path.parent.name)
def test_package_files_import_their_own_room_only(path: Path) -> None:
    assert not {name for name in imported(path) if name.split(".")[0] != room(path)}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nothing_is_executed_and_no_loader_is_taken_that_could(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in EXECUTING
        if isinstance(node, ast.ImportFrom):
            assert node.module not in PICKLES
        if isinstance(node, ast.keyword) and node.arg == "Loader":
            assert ast.unparse(node.value).endswith(("SafeLoader", "Safe"))


def test_no_pickle_is_loaded() -> None:
    # `data/pickled.py` follows the opcodes of CIFAR's published batches itself
    for path in FILES:
        text = path.read_text()
        assert not [call for call in UNSAFE if call in text], path
        assert text.count("torch.load(") == text.count("weights_only=True)"), path
        # a program is screened first; `usage.py` stands beside the file that it loads, and came with it
        assert "export.load(" not in text or path.name in ("program_file.py", "usage.py"), path
        # what a configuration names is imported by `core.trust` and `core.hashed`, the others take a key of a table
        assert "import_module(" not in text or path.name in ("trust.py", "hashed.py", "blueprint.py", "files.py"), path
