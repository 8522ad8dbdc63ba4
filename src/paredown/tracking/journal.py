"""An experiment's records on its own disk, before any server hears of them: JSON lines and kept files."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from paredown.errors import UserError

NAME = "journal.jsonl"
FOLDER = "tracking"  # inside the experiment's folder

Record = dict[str, Any]


class Journal:
    """The journal in `folder`/tracking: `journal.jsonl`, one record a line, and `files/`, the artifacts.

    Every record has a `kind` (start, metrics, artifact, finish) and a `time` in milliseconds since 1970. One
    process writes, any number read; a line without its newline is not there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self.path = self.folder / NAME
        self.files = self.folder / "files"

    def append(self, kind: str, **values: Any) -> None:
        """Add one record; on return it is with the operating system, and no kill can take it back. On an OSError (a
        full disk) nothing of it stays."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"kind": kind, "time": time.time_ns() // 1_000_000} | values)
        self.path.touch()
        whole = self.path.stat().st_size
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:
            os.truncate(self.path, whole)  # only when it is closed, which writes what it still can of half a line
            raise

    def read(self, offset: int = 0, most: int | None = None) -> tuple[list[Record], int]:
        """Up to `most` records from byte `offset` on, and the offset behind the last of them."""
        records: list[Record] = []
        for record, end in self._lines(offset):
            records.append(record)
            offset = end
            if len(records) == most:
                break
        return records, offset

    def repair(self) -> None:
        """Cut off a last line that a crash tore. Only for the one process that writes."""
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        if (whole := content.rfind(b"\n") + 1) < len(content):
            os.truncate(self.path, whole)

    def keep(self, source: Path, name: str) -> None:
        """Hold the file `source` as `name` until it is sent, whatever becomes of the original."""
        target, temporary = self._room_for(name)
        try:
            os.link(source.resolve(), temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, temporary)
        temporary.replace(target)

    def keep_text(self, text: str, name: str) -> None:
        """Hold `text` as the file `name`."""
        target, _ = self._room_for(name)
        write_text(target, text)

    def _room_for(self, name: str) -> tuple[Path, Path]:
        target = self.files / check_name(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        return target, temporary

    def _lines(self, offset: int) -> Iterator[tuple[Record, int]]:
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                yield self._parse(line, offset), offset

    def _parse(self, line: bytes, end: int) -> Record:
        try:
            return json.loads(line)
        except ValueError as error:
            raise UserError(f"{self.path}: the line before byte {end} is not JSON ({error}): delete it") from error


def write_text(path: Path, text: str) -> None:
    """Write through a temporary name and a rename (`blueprint` does the same, but imports torch)."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def check_name(name: str) -> str:
    """`name` if MLflow takes it for a metric, parameter or artifact: at most 250 letters, digits, `_-.:/` and
    blanks, no empty or `..` part, no `..` at the start. Else raises ValueError: it would hold up the rest."""
    parts = PurePosixPath(name).parts
    clean = name == "/".join(parts) and not name.startswith(("/", "..")) and ".." not in parts
    if not re.fullmatch(r"[\w\-. :/]{1,250}", name) or not clean:
        raise ValueError(f"MLflow takes no record named {name!r}: letters, digits, '_-.: ' and single '/' only")
    return name
