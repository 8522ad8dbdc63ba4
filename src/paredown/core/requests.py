"""Requests on the command line: key=value words become a frozen dataclass of checked fields; and exit codes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

from paredown.core import interrupt
from paredown.core.constraints import Before, Checked, make
from paredown.core.errors import UserError, nearest, printable
from paredown.core.files import storage_failure, typed_path

FAILED, MISTAKE = 1, 2
PROGRAM = "paredown"  # also the first word of sys.argv under it, as in "paredown run"
ID = re.compile("[0-9a-f]{6,32}")  # of a run of MLflow, or its beginning
SCRIPT = re.compile(r"(?:python )?\bsrc/(\w+)\.py")
Request = TypeVar("Request", bound=Checked)


class Failure(RuntimeError):
    """A valid request whose result is not what it must be. The command line prints the message, with exit code 1."""


def parse_list(text: Any) -> Any:
    """Return the parts of 'a,b' or '[a, b]', each once; anything but text as it is."""
    if not isinstance(text, str):
        return text
    parts = (part.strip() for part in text.strip("[]").split(","))
    return tuple(dict.fromkeys(part for part in parts if part))


Listed = Before(parse_list)
Folder = Annotated[Path, Before(lambda path: typed_path(path) if isinstance(path, str) else path)]


def parse(kind: type[Request], words: Sequence[str], **more: Any) -> Request:
    """Return the `kind` that `words`, each key=value, ask for; fields in `more` are not keys.

    A field is set by its name, or by the "key" of its metadata. Raise UserError for whatever is wrong with the words.
    """
    names = {key: name for key, name in keys(kind).items() if name not in more}
    return make(kind, {names[key]: value for key, value in settings(words, names).items()} | more, "")


def keys(kind: type[Checked]) -> dict[str, str]:
    """Return the names of the fields of `kind` by the keys of the command line that set them."""
    return {item.metadata.get("key", item.name): item.name for item in fields(kind)}  # type: ignore[arg-type]


def settings(words: Sequence[str], known: Iterable[str]) -> dict[str, str | None]:
    """Return the values of `words` by key, None for null. Raise UserError for a word that is not key=value, an unknown
    key or an empty value."""
    known = list(known)
    values: dict[str, str | None] = {}
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals:
            if meant := as_setting(words, known):
                raise UserError(meant)
            raise UserError(f"cannot read {word!r}: {_remedy(key, known)}")
        if key not in known:
            raise UserError(f"unknown key {key!r}: {nearest(key, known)}")
        if not value:
            raise UserError(f"{key}= is empty: give a value, or leave {key} out")
        values[key] = None if value == "null" else value
    return values


def as_setting(words: Sequence[str], known: Iterable[str]) -> str | None:
    """Return how to write the first of `words` that is a setting of `known` in another form, as `--sparsity 0.9` or
    `sparsity 0.9`, or `help`; None where there is none. A word behind an option of another name is its value."""
    known, before = set(known), ""
    words = [word for word in words if word != "="]  # of `method = ssc`
    for word, after in zip(words, [*words[1:], ""], strict=False):
        key, equals, value = word.lstrip("-").partition("=")
        dashed = word.startswith("-")
        if re.split("[.@/]", key)[0] in known and (dashed or not (equals or before.startswith("-"))):
            follows = after if after and "=" not in after and not after.startswith("-") else "value"
            return f"cannot read {word!r}: write {key}={value if equals else follows}"
        if word == "help" and not before.startswith("-"):
            return "cannot read 'help': write --help"
        before = "" if equals else word
    return None


def _remedy(word: str, known: Sequence[str]) -> str:
    """Return how to write `word`, which is no key=value: the id or the folder of a run alone is taken for one."""
    key = next((key for key in ("run", "runs") if key in known), None)
    if key and (ID.fullmatch(word) or Path(word).is_dir()):
        return f"write {key}={word}"
    return f"write key=value; {nearest(word, known)}"


def as_called(text: str) -> str:
    """Return `text`, which names commands as `python src/run.py`, with the names by which this process was called."""
    return SCRIPT.sub(rf"{PROGRAM} \1", text) if sys.argv[0].startswith(f"{PROGRAM} ") else text


def run_command(work: Callable[[list[str]], None], help_file: Path) -> None:
    """Run `work` on the words of the command line; print the help where it is asked for, or where there are none."""
    words = sys.argv[1:]
    if not words or {"--help", "-h"} & set(words):
        print(as_called(help_file.read_text(encoding="utf-8")), end="")
        sys.exit(0 if words else MISTAKE)
    with exit_codes():
        work(words)


@contextmanager
def exit_codes(interrupted: str = "interrupted") -> Iterator[None]:
    """End the process with one line and an exit code where the body raises UserError, Failure or anything else, whose
    traceback is kept in a file, or is interrupted."""
    try:
        yield
    except UserError as error:
        end(error, MISTAKE)
    except Failure as error:
        end(error, FAILED)
    except BrokenPipeError:  # whoever read our output, as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, KeyboardInterrupt) or interrupt.interrupted():
            end(interrupted, interrupt.INTERRUPTED)
        if reason := storage_failure(error):
            end(f"{reason}; what was finished is kept; when that is mended, the same command goes on", FAILED)
        from paredown.core.crash import keep

        end(keep(error, sys.argv[1:]), FAILED)


def end(message: object, code: int) -> NoReturn:
    """Print one line to stderr and exit with `code`."""
    interrupt.said()
    print(f"paredown: {printable(as_called(str(message)))}", file=sys.stderr)
    sys.exit(code)
