"""Code outside of paredown that a configuration or a state names, as FILE.py:NAME or package.module:NAME: where it is,
the digest of its text, and its execution (`core.hashed`), which the user has to trust."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, PathFinder
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from torch import nn

from paredown.core import hashed
from paredown.core.constraints import written
from paredown.core.errors import Refusal, UserError, named_reason, nearest
from paredown.core.files import read_text, typed_path
from paredown.core.trust import DOTTED, ENVIRONMENT, trusted_files, typed

FORM = "FILE.py:NAME or package.module:NAME, of a function or class that returns the network"
PUT_BACK = "put it back, or name where it is now, for a recorded network by trust=FILE.py"
DIGITS = 20  # of the SHA-256 that are kept


@dataclass(frozen=True)
class Source:
    """The callable `name` of the module in `file`, which is `module` of an installed package (None: a file by itself),
    below the folder `root` that its imports are looked for in."""

    file: Path
    root: Path
    module: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.module or self.file}:{self.name}"

    @property
    def texts(self) -> dict[Path, str]:
        """The texts, each read once, of the file and of those beside it, or of the same package, that its import
        statements name, directly or not. UserError where one of these is no Python source."""
        above = [
            place / "__init__.py" for place in self.file.parents if self.module and place.is_relative_to(self.root)
        ]
        waiting, found = [self.file, *(path for path in above if path.is_file())], dict[Path, str]()
        while waiting:
            if (path := waiting.pop()) not in found:
                found[path] = _text(path)
                waiting += self._imported(path, found[path])
        return dict(sorted(found.items()))

    @property
    def digest(self) -> str:
        """The first DIGITS of the SHA-256 of `name` and the `texts`, wherever they are."""
        return self.digest_of(self.texts)

    def digest_of(self, texts: Mapping[Path, str]) -> str:
        """Return the digest for `texts` that were read before."""
        total = hashlib.sha256(self.name.encode())
        for path, text in texts.items():
            total.update(f"\n{path.relative_to(self.root)} {len(text)}\n{text}".encode())
        return total.hexdigest()[:DIGITS]

    def _imported(self, path: Path, text: str) -> Iterator[Path]:
        package = path.relative_to(self.root).parent.parts
        for names in _imports(_tree(path, text), package):
            if not self._covers(names):
                continue
            for length in range(1, len(names) + 1):
                place = self.root.joinpath(*names[:length])
                found = [one for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file()]
                _require_source(path, place, found)
                yield from found

    def _covers(self, names: tuple[str, ...]) -> bool:
        """Tell whether the import of `names` may be of a file below the folder: in a package, of the same one; beside
        a file, of no module of Python's."""
        if self.module:
            return names[:1] == tuple(self.module.split(".")[:1])
        return bool(names) and names[0] not in sys.stdlib_module_names


def find_source(text: Any, setting: str, digest: str | None = None) -> Source:
    """Find the code that `text` names, without running any of it; a file of a known `digest` that is gone may be a
    trusted one of its name. Raise UserError, naming the `setting`, where there is none."""
    place, colon, name = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    if not (colon and place and name.isidentifier()):
        raise UserError(f"{setting}={written(text)} ({FORM})")
    if place.endswith(".py"):
        file, module = typed_path(place).resolve(), None
        file = file if digest is None else _present(file)
        root = file.parent
    elif DOTTED.fullmatch(place) and ":" not in place:
        (file, root), module = _module_file(place, f"{setting}={text}"), place
    else:
        raise UserError(f"{setting}={written(text)} ({FORM})")
    if not file.is_file():
        raise Refusal(f"{setting}={text}: there is no file {file} ({PUT_BACK})")
    source = Source(file, root, module, name)
    _require_name(source, setting)
    return source


def load_source(source: Source, digest: str | None, setting: str) -> Callable[..., Any]:
    """Run the module of `source`, from the texts whose `digest` is given (None: any), and return its function or
    network class. Raise UserError, before anything is run, where a text has changed or the user does not trust it."""
    texts = source.texts
    now = source.digest_of(texts)
    require_digest(source, now, digest, setting)
    if not _is_trusted(source):
        raise Refusal(_refusal(source, texts, now, setting))
    try:
        module = hashed.module(source.file, source.root, source.module, texts, now)
        found = getattr(module, source.name)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{setting}={source} cannot be imported: {named_reason(error)}{line_in(error, source)}"
        ) from error
    _require_defined(found, module, f"{setting}={source}")
    return found


def require_digest(source: Source, now: str, digest: str | None, setting: str) -> None:
    """Raise UserError where the texts of `source` have the digest `now` and were recorded with another (None: with
    any)."""
    if digest not in (None, now):
        raise Refusal(
            f"{setting}={source}: {source.file}, or a file that it imports, has changed since (digest {now}, not "
            f"{digest}): put the text back, or train again"
        )


def _require_defined(found: Any, module: ModuleType, what: str) -> None:
    """Raise UserError unless `found` is a plain function or a network class of `module` itself: who writes a record
    chooses the name and its arguments, so that what the module imports must not be at hand."""
    inner = inspect.unwrap(found) if isinstance(found, FunctionType) else found
    is_class = isinstance(found, type) and issubclass(found, nn.Module)
    if not (is_class or isinstance(inner, FunctionType)):
        raise UserError(f"{what} is no function, and no class of torch.nn.Module: {FORM}")
    home = found.__module__ if is_class else inner.__globals__.get("__name__")
    if home != module.__name__:
        raise UserError(f"{what} is imported there from {home}: name the module that defines it, or wrap it in a def")


def _require_source(path: Path, place: Path, found: list[Path]) -> None:
    """Raise UserError where the import of `place` by `path` would find compiled code in place of a `found` source."""
    if not found and place.parent.is_dir():
        for suffix in (*EXTENSION_SUFFIXES, *BYTECODE_SUFFIXES):
            if (compiled := place.with_name(f"{place.name}{suffix}")).is_file():
                raise UserError(f"{path} imports {compiled}, which is no Python source: its digest would say nothing")


def line_in(error: BaseException, source: Source) -> str:
    """Return ", line N of FILE" for the last line below the folder of `source` that raised `error`."""
    found, trace = "", error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        found = f", line {trace.tb_lineno} of {path}" if path.is_relative_to(source.root) else found
        trace = trace.tb_next
    return found


def _present(file: Path) -> Path:
    """Return `file`, or where it is gone one of its name that the user trusts: a record may come from another place."""
    return file if file.is_file() else next((one for one in trusted_files() if one.name == file.name), file)


def _is_trusted(source: Source) -> bool:
    return typed(f"{source.module}.{source.name}") if source.module else source.file in trusted_files()


def _refusal(source: Source, texts: Mapping[Path, str], digest: str, setting: str) -> str:
    name = source.module or source.file
    more = f" and {len(texts) - 1} files that it imports" if len(texts) > 1 else ""
    lines = len(texts[source.file].splitlines())
    return (
        f"{setting}={source} is not run: it would execute {source.file} ({lines} lines{more}, digest {digest}); "
        f"read it, and if you trust it add trust={name} to the command (in Python: paredown.load(..., "
        f"trust={str(name)!r})), or set {ENVIRONMENT}={name}"
    )


def _require_name(source: Source, setting: str) -> None:
    """Raise UserError where no line of the file binds the name, or an import does."""
    names, imported = set[str](), set[str]()
    for node in _tree(source.file, _text(source.file)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imported |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        else:
            inside = list(ast.walk(node))
            names |= {one.id for one in inside if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}
            names |= {one.name for one in inside if isinstance(one, ast.FunctionDef | ast.ClassDef)}
    if source.name in names or "__getattr__" in names:
        return
    if source.name in imported or "*" in imported:
        raise UserError(
            f"{setting}={source}: {source.file} does not define {source.name}, it imports it or nothing of that name: "
            "name the module that defines it, or wrap it in a def"
        )
    raise UserError(f"{setting}={source}: {source.file} has no {source.name}: {nearest(source.name, names)}")


def _module_file(name: str, given: str) -> tuple[Path, Path]:
    """Return the file of the module `name` and the folder of its outermost package. No package is imported."""
    parts, places = name.split("."), None
    for length in range(1, len(parts) + 1):
        spec = PathFinder.find_spec(".".join(parts[:length]), places)
        if spec is None:
            raise UserError(
                f"{given}: there is no module {'.'.join(parts[:length])} (is it installed, or on PYTHONPATH?)"
            )
        places = spec.submodule_search_locations
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise UserError(f"{given}: {name} is no module of Python source ({FORM})")
    file = Path(spec.origin).resolve()
    return file, file.parents[len(parts) - (0 if file.name == "__init__.py" else 1)]


def _imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the dotted names that a file of a `package` imports anywhere, as their parts."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            inside = (*above, *(node.module.split(".") if node.module else ()))
            yield from ((*inside, alias.name) for alias in node.names)


def _tree(path: Path, text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no Python: {named_reason(error)}") from error


def _text(path: Path) -> str:
    return read_text(path, PUT_BACK)
