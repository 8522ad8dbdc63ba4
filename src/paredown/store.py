"""States by key: what a stage made is kept once, found again by anyone with the same key, and never half written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from paredown import blueprint
from paredown.errors import UserError
from paredown.plan import Network

RECORD = "stage.json"


@dataclass(frozen=True)
class Record:
    """What made a state: the stage's values, its parent's key, the figures of each epoch, what an edit found, and the
    seconds it took."""

    key: str
    parent: str
    stage: Any
    seed: int
    data: str
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


class Store:
    """A folder of states, `<key[:2]>/<key>/`. Several processes may share it: see `lock`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, key: str) -> Path:
        """Where the state of `key` lies, or will lie."""
        return self.root / key[:2] / key

    @property
    def shared(self) -> Path:
        """A folder for what stages of several experiments share by its content, and may make again if it is gone."""
        return self.root / "shared"

    def has(self, key: str) -> bool:
        """Whether the stage of `key` is finished."""
        return (self.folder(key) / RECORD).is_file()

    def record(self, key: str) -> Record:
        """What made the state of `key`."""
        return Record(**json.loads((self.folder(key) / RECORD).read_text()))

    def read(self, key: str) -> Network:
        """The network of `key`. UserError for one that was damaged, with the way out."""
        try:
            return blueprint.read(self.folder(key))
        except UserError as error:
            raise UserError(f"{error} (delete that folder to have it made again)") from error

    def workplace(self, key: str) -> Path:
        """A folder for what the unfinished stage of `key` must keep; `put` removes it."""
        folder = self.root / key[:2] / f"{key}.unfinished"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def put(self, network: Network, record: Record) -> None:
        """Keep `network` under its key. It appears whole, by one rename, or not at all."""
        workplace = self.workplace(record.key)
        temporary = workplace / "state"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        blueprint.save(network, temporary)
        blueprint.write_text(temporary / RECORD, json.dumps(asdict(record), indent=1))
        temporary.replace(self.folder(record.key))
        shutil.rmtree(workplace)

    @contextmanager
    def lock(self, key: str, waiting: Any = None) -> Iterator[None]:
        """Hold `key` alone among all processes; the system frees it when the holder dies. `waiting()` is called once
        if another holds it."""
        lock = FileLock(self._lock_file(key))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if waiting:
                waiting()
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def busy(self, key: str) -> bool:
        """Whether a process holds `key` at this moment."""
        try:
            with FileLock(self._lock_file(key), blocking=False):
                return False
        except Timeout:
            return True

    def _lock_file(self, key: str) -> Path:
        path = self.root / key[:2] / f"{key}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def open_store(root: Path) -> Store:
    """The store below `root`, made if it is not there. UserError where nothing can be written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        probe = root / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"cannot write to output folder {root}: {error.strerror} (choose another: output=FOLDER)"
        ) from error
    return Store(root)
