"""The write-ahead journal of an experiment's records: JSON lines and artifact files on its local disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from paredown.core.errors import UserError
from paredown.core.files import naming, parse_json, reading, replacing, write_text

NAME = "journal.jsonl"
FOLDER = "tracking"  # inside the experiment's folder

Record = dict[str, Any]


@dataclass(frozen=True)
class _Start:
    time: int
    id: str
    experiment: str
    name: str
    params: dict[str, str]
    tags: dict[str, str]


@dataclass(frozen=True)
class _Metrics:
    time: int
    step: int
    values: dict[str, int | float]


@dataclass(frozen=True)
class _Artifact:
    time: int
    name: str


@dataclass(frozen=True)
class _Finish:
    time: int
    status: str
    tags: dict[str, str]


KINDS: dict[str, Any] = {"start": _Start, "metrics": _Metrics, "artifact": _Artifact, "finish": _Finish}


class Journal:
    """The journal in `folder`/tracking: `journal.jsonl`, one record a line, and `files/`, the artifacts.

    Every record has a `kind` (start, metrics, artifact, finish) and a `time` in milliseconds since 1970. One process
    writes, any number read; a last line without its newline is ignored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER
        self.path = self.folder / NAME
        self.files = self.folder / "files"

    def append(self, kind: str, **values: Any) -> None:
        """Append one record. On return the operating system has it, so it survives a kill; on an OSError (a full disk)
        the journal is unchanged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"kind": kind, "time": time.time_ns() // 1_000_000} | values)
        self.path.touch()
        size = self.path.stat().st_size
        try:
            with naming(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:
            os.truncate(self.path, size)  # after closing the file, which may have written part of the line
            raise

    def read(self, offset: int = 0, most: int | None = None) -> tuple[list[Record], int]:
        """Return up to `most` records from byte `offset` on, and the offset after the last of them."""
        records: list[Record] = []
        for record, end in self._lines(offset):
            records.append(record)
            offset = end
            if len(records) == most:
                break
        return records, offset

    def repair(self) -> None:
        """Truncate an incomplete last line, left by a crash. Only the writing process may call this."""
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        if (whole := content.rfind(b"\n") + 1) < len(content):
            os.truncate(self.path, whole)

    def keep(self, source: Path, name: str) -> None:
        """Keep a link to or copy of the file `source` as `name`, independent of the original."""
        with replacing(self._target(name)) as temporary:
            temporary.unlink(missing_ok=True)
            try:
                os.link(source.resolve(), temporary)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(source, temporary)

    def keep_text(self, text: str, name: str) -> None:
        """Keep `text` as the file `name`."""
        write_text(self._target(name), text)

    def _target(self, name: str) -> Path:
        target = self.files / check_name(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

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
        with reading(self.path, f"delete the line before byte {end}"):
            record: Record = json.loads(line)
            kind = record.get("kind") if isinstance(record, dict) else None
            if kind not in KINDS:
                raise UserError(f"{self.path}: the line before byte {end} is no record: delete it")
            parse_json(line, KINDS[kind])
            if kind == "artifact":
                check_name(record["name"])
            return record


def check_name(name: str) -> str:
    """Return `name` if MLflow accepts it for a metric, parameter or artifact: at most 250 letters, digits, `_-.:/` and
    spaces, no empty or `..` part, no `..` at the start. Raise ValueError otherwise: it would block later records."""
    parts = PurePosixPath(name).parts
    clean = name == "/".join(parts) and not name.startswith(("/", "..")) and ".." not in parts
    if not re.fullmatch(r"[\w\-. :/]{1,250}", name) or not clean:
        raise ValueError(f"MLflow accepts no record named {name!r}: letters, digits, '_-.: ' and single '/' only")
    return name
