"""The last net of the command lines: an error that nothing else caught is one line, and a file with its traceback."""

from __future__ import annotations

import platform
import re
import tempfile
import time
import traceback
from collections.abc import Sequence
from os import getpid
from pathlib import Path

from paredown import __version__
from paredown.core.errors import reason

GO_ON = "what was finished is kept, and the same command goes on from there"
OUTPUT = "outputs"  # as conf/config.yaml has it
SECRET = re.compile(r"//[^/@\s]*@")  # user and password of a URL


def keep(error: BaseException, words: Sequence[str]) -> str:
    """Write the traceback of `error` into the output folder that the command line's `words` name, and return the line
    that says what happened and where it is."""
    kind = type(error).__name__
    said = SECRET.sub("//", reason(error))
    line = f"an unexpected error, {said if said.startswith(kind) else f'{kind}: {said}'}"
    text = "".join(one if one.isprintable() or one == "\n" else "?" for one in SECRET.sub("//", _text(error, words)))
    for folder in (_output(words), Path(tempfile.gettempdir())):
        path = folder / f"error-{time.strftime('%Y%m%d-%H%M%S')}-{getpid()}.txt"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:  # a full disk, a read-only folder: the next one
            continue
        return f"{line}; its traceback is in {path} (please report it); {GO_ON}"
    return f"{line}; its traceback could not be written to {OUTPUT}: free some space and repeat the command"


def _text(error: BaseException, words: Sequence[str]) -> str:
    versions = f"paredown {__version__}, Python {platform.python_version()}, {platform.platform()}"
    return f"{versions}\n{' '.join(words)}\n\n{''.join(traceback.format_exception(error))}"


def _output(words: Sequence[str]) -> Path:
    given = [word.partition("=")[2] for word in words if word.startswith("output=")]
    try:
        return Path(given[-1].strip("'\"") if given and given[-1] else OUTPUT).expanduser().absolute()
    except (RuntimeError, OSError):  # no such home folder; a working folder that has been removed
        return Path()
