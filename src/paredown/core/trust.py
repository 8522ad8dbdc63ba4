"""Names that a configuration, a state or a record may have imported and called: the project's own of the kind that is
asked for, those of installed plugins, and those that the user trusts: typed, or in PAREDOWN_TRUST."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

from annotated_types import Predicate

from paredown.core.constraints import Rule, written
from paredown.core.errors import Refusal, UserError, named_reason
from paredown.core.legacy import current_target
from paredown.core.plugins import plugins

TARGET = "_target_"
DOTTED = re.compile(r"[A-Za-z_]\w*([.:][A-Za-z_]\w*)*", re.ASCII)
FILE = re.compile(r"(?P<path>[^\x00-\x1f]*[^\x00-\x1f/]\.py)(:[A-Za-z_]\w*)?")
ENVIRONMENT = "PAREDOWN_TRUST"  # names between commas
NAMES = "a dotted name, package, package.module or package.module:Name, or FILE.py"


def _is_name(name: str) -> bool:
    return DOTTED.fullmatch(name) is not None or FILE.fullmatch(name) is not None


Name = Annotated[str, Predicate(_is_name), Rule(NAMES)]
_TRUSTED: set[str] = set()  # by this process, see `trust`


def trust(names: Iterable[str]) -> None:
    """Let this process import and call what is at or below `names`, and run the files among them. They come from the
    user, never from a file."""
    _TRUSTED.update(absolute(name) for name in names)


@contextmanager
def trusting(names: str | Path | Iterable[str | Path]) -> Iterator[None]:
    """Let the `with` block alone import and call `names`, one or several. Raise UserError for what is no name."""
    several = list(names) if isinstance(names, Iterable) and not isinstance(names, str) else [names]
    for name in several:
        if not isinstance(name, str | Path) or not _is_name(str(name)):
            raise UserError(f"trust={written(name)} ({NAMES})")
    before = set(_TRUSTED)
    trust(map(str, several))
    try:
        yield
    finally:
        _TRUSTED.clear()
        _TRUSTED.update(before)


def absolute(name: str) -> str:
    """Return a file's `name` as an absolute path, so that it is the same from any folder; another as it is."""
    found = FILE.fullmatch(name)
    return str(Path(found["path"]).expanduser().resolve()) if found else name.replace(":", ".")


def trusted(name: str) -> bool:
    """Tell whether the dotted `name` is at or below one that the user trusts or that an installed plugin has."""
    return typed(name) or _below(name, plugins())


def typed(name: str) -> bool:
    """Tell whether the dotted `name` is at or below one that the user trusts, whatever plugins have."""
    return _below(name, _trusted_names())


def _below(name: str, known: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{one}.") for one in known)


def trusted_files() -> list[Path]:
    """Return the files that the user trusts."""
    return [Path(name) for name in sorted(_trusted_names()) if name.endswith(".py")]


def _trusted_names() -> set[str]:
    names = [name.strip() for name in os.environ.get(ENVIRONMENT, "").split(",")]
    for name in names:
        if FILE.fullmatch(name) and not name.startswith(("/", "~")):  # a shell's profile holds in any folder
            raise Refusal(f"{ENVIRONMENT}={name} would be another file in every folder: give its whole path")
    return _TRUSTED | {absolute(name) for name in names if name}


def resolve(config: Mapping[str, Any], section: str, room: str) -> Any:
    """Return what `_target_` of `config` names: below the package `room`, or trusted; whether it is of the right kind
    is for the caller to check before anything is called. The other values are data.

    Raise UserError, before anything is imported, for any other name and for a `_target_` among the values.
    """
    setting, target = f"{section}.{TARGET}", config.get(TARGET)
    if not isinstance(target, str) or "." not in target or DOTTED.fullmatch(target) is None or ":" in target:
        raise UserError(f"{setting}={written(target)} (text: the dotted path of a class or function)")
    _refuse_nested({name: value for name, value in config.items() if name != TARGET}, section)
    path = current_target(target)
    if not (path.startswith(f"{room}.") or trusted(path)):
        module = path.rpartition(".")[0]
        raise Refusal(
            f"{setting}={target} is neither imported nor called: it is not below {room}; if you know what it does, "
            f"add trust={module} to the command (in Python: paredown.load(..., trust={module!r}))"
        )
    return _imported(path, setting, target)


def _imported(path: str, setting: str, target: str) -> Any:
    module, _, attribute = path.rpartition(".")
    try:
        return getattr(load_module(module, f"{setting}={target}"), attribute)
    except AttributeError as error:
        raise UserError(f"{setting}={target}: there is no such class or function in {module}") from error


def load_module(name: str, what: str) -> ModuleType:
    """Load the module `name`, which `what` needs and which may be called. Raise UserError where that fails."""
    try:
        return import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            where = "there is no such class or function: no module"
            raise UserError(f"{what}: {where} {error.name} (is its folder on PYTHONPATH?)") from error
        raise UserError(f"{what}: importing {name} failed: {named_reason(error)}") from error


def _refuse_nested(value: Any, place: str) -> None:
    """Raise UserError for a `_target_` anywhere inside `value`, which nothing would call."""
    waiting = [(place, value)]
    while waiting:
        where, item = waiting.pop()
        if isinstance(item, Mapping):
            if TARGET in item:
                raise UserError(f"{where}.{TARGET}={written(item[TARGET])}: values are data and are never called")
            waiting += [(f"{where}.{name}", part) for name, part in item.items()]
        elif isinstance(item, Sequence) and not isinstance(item, str):
            waiting += [(f"{where}[{index}]", part) for index, part in enumerate(item)]
