"""Execution of texts whose digest was taken: of those very texts, never of cached bytecode, and of nothing beside them.

A file by itself and what it imports from its folder become modules of a package of that digest's, so that equal names
of two folders, or of two texts of one file, do not meet. Modules of an installed package keep their names. Finders
stay: functions import when they are called.
"""

from __future__ import annotations

import builtins
import hashlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from paredown.core.errors import Refusal

STARTED = time.time()  # of this process: about when other code was imported
HERE = "paredown_source_"  # the packages of files by themselves: HERE + digest of texts and place
_LOADED: dict[str, str] = {}  # the texts of the modules of installed packages that were loaded here


@dataclass(frozen=True)
class Text(ExecutionLoader):
    """A loader of one text, with the `__import__` of its import statements (None: Python's)."""

    text: str
    path: str
    importer: Callable[..., Any] | None

    def exec_module(self, module: ModuleType) -> None:
        """Run the text."""
        if self.importer is not None:
            module.__dict__["__builtins__"] = {**vars(builtins), "__import__": self.importer}
        super().exec_module(module)

    def get_source(self, fullname: str) -> str:
        """Return the text, which is compiled anew."""
        return self.text

    def get_filename(self, fullname: str) -> str:
        """Return the path that the text was read from."""
        return self.path


@dataclass(frozen=True)
class Finder(MetaPathFinder):
    """A finder of `members`, texts by module name: None is a folder without a file. Below `prefix` there are no other
    modules."""

    members: Mapping[str, tuple[Path, str | None]]
    prefix: str | None
    importer: Callable[..., Any] | None

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the member of that name. Raise ModuleNotFoundError for another below the prefix."""
        if fullname not in self.members:
            if self.prefix and fullname.startswith(f"{self.prefix}."):
                said = "no import statement names it, and its text has no digest"
                raise ModuleNotFoundError(f"No module named {fullname.partition('.')[2]!r}: {said}", name=fullname)
            return None
        file, text = self.members[fullname]
        if text is None:
            spec = ModuleSpec(fullname, None, is_package=True)
            spec.submodule_search_locations = [str(file)]
            return spec
        if self.prefix is None:
            _LOADED[fullname] = text
        inside = [str(file.parent)] if file.name == "__init__.py" else None
        loader = Text(text, str(file), self.importer)
        return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inside)


def module(file: Path, root: Path, name: str | None, texts: Mapping[Path, str], digest: str) -> ModuleType:
    """Return the module of `file`, run from `texts`: below the folder `root`, of the installed package of the module
    `name` (None: a file by itself). Raise Refusal where this process imported other texts of that package."""
    members = _members(root, texts)
    if name is not None:
        return _of_package(name, members)
    place = hashlib.sha256(str(root).encode()).hexdigest()[:8]
    prefix = f"{HERE}{digest}_{place}"
    own = f"{prefix}.{file.stem.replace('.', '_')}"
    if own not in sys.modules:
        below = {f"{prefix}.{name}": item for name, item in members.items()} | {prefix: (root, None)}
        sys.meta_path.insert(0, Finder(below, prefix, _importer(prefix, {name.split(".")[0] for name in members})))
    return import_module(own)


def _members(root: Path, texts: Mapping[Path, str]) -> dict[str, tuple[Path, str | None]]:
    """Return the texts by the names of their modules; a package stands before a file of its name, as for Python."""
    found: dict[str, tuple[Path, str | None]] = {}
    for path in sorted(texts, key=lambda path: path.name == "__init__.py"):
        parts = tuple(part.replace(".", "_") for part in path.relative_to(root).with_suffix("").parts)
        parts = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
        found[".".join(parts)] = (path, texts[path])
        for length in range(1, len(parts)):
            found.setdefault(".".join(parts[:length]), (root.joinpath(*parts[:length]), None))
    return found


def _importer(prefix: str, tops: set[str]) -> Callable[..., Any]:
    """Return an `__import__` that takes modules of the names `tops`, and what is below them, from the package
    `prefix`."""

    def imported(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        if level or name.partition(".")[0] not in tops:
            return builtins.__import__(name, globals, locals, fromlist, level)
        found = builtins.__import__(f"{prefix}.{name}", globals, locals, fromlist, 0)
        return found if fromlist else sys.modules[f"{prefix}.{name.partition('.')[0]}"]

    return imported


def _of_package(name: str, members: Mapping[str, tuple[Path, str | None]]) -> ModuleType:
    """Return the module `name` of an installed package: modules that this process has from other texts are run anew
    where they were loaded here."""
    if any(_LOADED.get(one, text) != text for one, (_, text) in members.items() if one in sys.modules):
        for one in [one for one in _LOADED if one.partition(".")[0] == name.partition(".")[0]]:
            sys.modules.pop(one, None)
            del _LOADED[one]
    for one, (file, text) in members.items():
        if text is not None and one in sys.modules and one not in _LOADED:
            _require_unchanged(sys.modules[one], file)
    sys.meta_path.insert(0, Finder(members, None, None))
    return import_module(name)


def _require_unchanged(found: ModuleType, file: Path) -> None:
    """Raise Refusal where `found`, which other code imported, is not of `file` as it is."""
    here = getattr(found, "__file__", None)
    if here is None or Path(here).resolve() != file or file.stat().st_mtime > STARTED:
        raise Refusal(f"{found.__name__} was imported by this process from {here} before {file} changed: start anew")
