"""What the entry points without Hydra share: words of key=value, one line and an exit code for what goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NoReturn

from paredown.errors import UserError, nearest

FAILED, MISTAKE, INTERRUPTED = 1, 2, 130


class Failure(RuntimeError):
    """What was asked for was right and did not come out. The command line prints the message and exits with code 1."""


def settings(words: Sequence[str], known: Iterable[str]) -> dict[str, str]:
    """`words`, each key=value, by key. UserError for any other word, an unknown key and an empty value."""
    known = list(known)
    values: dict[str, str] = {}
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            form = f"{key}=value" if key in known else f"key=value; {nearest(key, known)}"
            raise UserError(f"cannot read {word!r}: write {form}")
        if key not in known:
            raise UserError(f"unknown key {key!r}: {nearest(key, known)}")
        if not value:
            raise UserError(f"{key}= is empty: give a value, or leave {key} out")
        values[key] = value
    return values


def several(text: str) -> list[str]:
    """The parts of 'a,b' or '[a, b]', each once."""
    parts = (part.strip() for part in text.strip("[]").split(","))
    return list(dict.fromkeys(part for part in parts if part))


def number(name: str, text: str, kind: type[int] | type[float], least: float = 0) -> float:
    """`text` as a number of `kind`. UserError for anything else and for one below `least`."""
    try:
        value = kind(text)
    except ValueError:
        value = float("nan")
    if not value >= least:
        raise UserError(f"{name}={text} is not a {'whole ' if kind is int else ''}number of at least {least:g}")
    return value


def carry_out(work: Callable[[list[str]], None], help_file: Path) -> None:
    """Hand the words of the command line to `work`; show the help where it is asked for or nothing is."""
    words = sys.argv[1:]
    if not words or {"--help", "-h"} & set(words):
        print(help_file.read_text(), end="")
        sys.exit(0 if words else MISTAKE)
    try:
        work(words)
    except UserError as error:
        _end(error, MISTAKE)
    except Failure as error:
        _end(error, FAILED)
    except KeyboardInterrupt:
        _end("interrupted", INTERRUPTED)


def _end(message: object, code: int) -> NoReturn:
    print(f"paredown: {message}", file=sys.stderr)
    sys.exit(code)
