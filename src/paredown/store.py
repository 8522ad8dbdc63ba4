"""States by key: what a stage made is kept once, found again by anyone with the same key, and never half written."""

from __future__ import annotations

import json
import logging
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from paredown import blueprint
from paredown.bucket import EXPIRY, PAUSE, Bucket, open_bucket
from paredown.errors import UserError
from paredown.plan import Network

log = logging.getLogger("paredown")
RECORD, STATES = "stage.json", "states"


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
    """A folder of states, `<key[:2]>/<key>/`. Several processes may share it: see `lock`.

    With a `bucket` it is the cache of one: each state is an object there too, `states/<key>.tar`, and what counts is
    what lies there. So are the folders of experiments and sweeps, see `push`.
    """

    def __init__(self, root: Path, bucket: Bucket | None = None) -> None:
        self.root, self.bucket = root, bucket

    def folder(self, key: str) -> Path:
        """Where the state of `key` lies, brought here if need be, or will lie."""
        folder = self._folder(key)
        if self.bucket and not self._here(key):
            with tempfile.TemporaryDirectory(dir=self._room(key)) as place:
                packed, unpacked = Path(place) / "state.tar", Path(place) / "state"
                if self.bucket.get(_object(key), packed):
                    with tarfile.open(packed) as tar:
                        tar.extractall(unpacked, filter="data")
                    with FileLock(self._lock_file(key).with_suffix(".fetch")):
                        if not self._here(key):
                            unpacked.replace(folder)
        return folder

    @property
    def shared(self) -> Path:
        """A folder for what stages of several experiments share by its content, and may make again if it is gone."""
        return self.root / "shared"

    def has(self, key: str) -> bool:
        """Whether the stage of `key` is finished."""
        if self.bucket is None:
            return self._here(key)
        there = f"{key}.tar" in self.bucket.names(STATES)
        if not there and self._here(key):  # made before there was a bucket
            self._publish(self._folder(key), key)
            return True
        return there

    def refresh(self) -> None:
        """Ask the bucket anew from here on, which is otherwise believed for a second."""
        if self.bucket:
            self.bucket.forget()

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
        folder = self._room(key) / f"{key}.unfinished"
        folder.mkdir(exist_ok=True)
        return folder

    def put(self, network: Network, record: Record) -> None:
        """Keep `network` under its key. It appears whole, by one rename, or not at all."""
        workplace = self.workplace(record.key)
        temporary = workplace / "state"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        blueprint.save(network, temporary)
        blueprint.write_text(temporary / RECORD, json.dumps(asdict(record), indent=1))
        if self.bucket:
            self._publish(temporary, record.key)
        if not self._here(record.key):  # it may have come from the bucket, where another took this one for dead
            temporary.replace(self._folder(record.key))
        shutil.rmtree(workplace)

    @contextmanager
    def lock(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold `key` alone among all processes; it is free again when the holder dies (in a bucket: a minute later).
        `waiting()` is called once if another holds it."""
        lock = FileLock(self._lock_file(key))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if waiting:
                waiting()
            lock.acquire()
        try:
            with self.bucket.hold(key, waiting) if self.bucket else nullcontext():
                self.refresh()  # the holder before us may have made it
                yield
        finally:
            lock.release()

    def busy(self, key: str) -> bool:
        """Whether a process holds `key` at this moment."""
        return _locked(self._lock_file(key)) or (self.bucket is not None and self.bucket.held(key))

    @contextmanager
    def alone(self, folder: Path, timeout: float = -1) -> Iterator[None]:
        """Hold the `folder` of an experiment or a sweep, as the bucket has it, alone among all processes, and leave
        it in the bucket as it is then. Timeout where another process holds it here for so many seconds, or elsewhere
        so long that it must be alive."""
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=timeout), self._held(folder, timeout):
            self.refresh()
            if self.bucket:
                self.bucket.pull(_name(folder), folder)
            try:
                yield
            finally:
                if self.bucket:
                    self.bucket.push(folder, _name(folder))

    def held(self, folder: Path) -> bool:
        """Whether a process has the `folder` of an experiment or a sweep in hand."""
        folder.mkdir(parents=True, exist_ok=True)
        return _locked(folder / ".lock") or (self.bucket is not None and self.bucket.held(_owner(folder)))

    def push(self, folder: Path) -> None:
        """Leave the `folder` of an experiment or a sweep in the bucket, where there is one, as it is now. Where that
        fails, `alone` does it in the end."""
        if self.bucket:
            try:
                self.bucket.push(folder, _name(folder))
            except OSError as error:
                log.warning("%s waits to be stored: %s", folder, error)

    def pull(self, folder: Path) -> None:
        """Bring the `folder` of an experiment or a sweep here, where there is a bucket and nobody here works on it."""
        if self.bucket is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", blocking=False):
                self.bucket.pull(_name(folder), folder)
        except Timeout:
            return

    def drop(self, holder: str) -> None:
        """Free what `holder` has of the bucket (see `bucket.sign_as`), which is known to be dead; else time does it."""
        if self.bucket:
            try:
                self.bucket.drop(holder)
            except OSError as error:
                log.warning("what a dead process held is free in a minute: %s", error)

    def _held(self, folder: Path, timeout: float) -> AbstractContextManager[None]:
        if self.bucket is None:
            return nullcontext()
        return self.bucket.hold(_owner(folder), timeout=timeout if timeout < 0 else max(timeout, EXPIRY + 2 * PAUSE))

    def _publish(self, folder: Path, key: str) -> None:
        assert self.bucket is not None
        with tempfile.TemporaryDirectory(dir=self._room(key)) as place:
            packed = Path(place) / "state.tar"
            with tarfile.open(packed, "w") as tar:
                for path in sorted(folder.iterdir()):
                    tar.add(path, path.name)
            self.bucket.put(packed, _object(key))

    def _here(self, key: str) -> bool:
        return (self._folder(key) / RECORD).is_file()

    def _folder(self, key: str) -> Path:
        return self.root / key[:2] / key

    def _room(self, key: str) -> Path:
        room = self.root / key[:2]
        room.mkdir(parents=True, exist_ok=True)
        return room

    def _lock_file(self, key: str) -> Path:
        return self._room(key) / f"{key}.lock"


def open_store(root: Path, url: str | None = None) -> Store:
    """The store below `root`, made if it is not there, the cache of the objects at `url` if one is given. UserError
    where nothing can be written."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()  # of a name of its own: others may ask at the same moment
    except OSError as error:
        raise UserError(
            f"cannot write to output folder {root}: {error.strerror} (choose another: output=FOLDER)"
        ) from error
    return Store(root, open_bucket(url) if url else None)


def _locked(path: Path) -> bool:
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True


def _object(key: str) -> str:
    return f"{STATES}/{key}.tar"


def _name(folder: Path) -> str:
    """`experiments/NAME` or `sweeps/NAME`, as below the output folder."""
    return f"{folder.parent.name}/{folder.name}"


def _owner(folder: Path) -> str:
    return _name(folder).replace("/", "-")
