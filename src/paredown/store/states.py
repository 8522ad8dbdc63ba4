"""The store of stage results: one state per key, written atomically and shared by all processes with the same key."""

from __future__ import annotations

import json
import logging
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.files import read_json, reading, remove_leftovers, removed_on_failure, sync, write_text
from paredown.core.network import Network
from paredown.core.paths import is_plain
from paredown.store.lease import EXPIRY_SECONDS, POLL_SECONDS, leases_of
from paredown.store.objects import ObjectStore, create, open_objects

log = logging.getLogger("paredown")
RECORD, STATES, DECISIONS = "stage.json", "states", "decisions"
REMEDY = "delete that folder to have it made again"
OBJECT_REMEDY = "delete that object to have it made again"


@dataclass(frozen=True)
class Record:
    """The provenance of a state: the stage's values, its parent's key, the metrics of each epoch, the notes of an edit,
    and the seconds it took."""

    key: str
    parent: str
    stage: Any
    seed: int
    data: str
    seconds: float
    history: list[dict[str, int | float]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)


class Store:
    """A folder of states, `<key[:2]>/<key>/`, that several processes may share: see `lock`.

    With `objects` it is a local cache: each state is also the object `states/<key>.tar`, and the objects decide which
    states exist. The folders of experiments and sweeps are synchronised with them too, see `push`.
    """

    def __init__(self, root: Path, objects: ObjectStore | None = None) -> None:
        self.root, self.objects = root, objects
        self.leases = leases_of(objects) if objects else None

    def folder(self, key: str) -> Path:
        """Return the local folder of state `key`, downloaded if necessary; it may not exist yet."""
        folder = self._folder(key)
        if self.objects and not self._is_local(key):
            with tempfile.TemporaryDirectory(dir=self._parent(key)) as temporary:
                packed, unpacked = Path(temporary) / "state.tar", Path(temporary) / "state"
                if self.objects.get(_object_key(key), packed):
                    unpack(packed, unpacked, f"{self.objects.root}/{_object_key(key)}")
                    with FileLock(self._lock_file(key).with_suffix(".fetch")):
                        if not self._is_local(key):
                            unpacked.replace(folder)
        return folder

    @property
    def shared(self) -> Path:
        """The folder of content-addressed files that stages of several experiments share; all can be recreated."""
        return self.root / "shared"

    def recall(self, name: str) -> str | None:
        """Return the text that is kept under `name`, None if none is."""
        path = self.root / DECISIONS / name
        if self.objects:
            self.objects.get(f"{DECISIONS}/{name}", path)
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None

    def remember(self, name: str, text: str) -> str:
        """Keep `text` under `name` unless one is kept there, and return the one that is: all processes get the same."""
        if (kept := self.recall(name)) is not None:
            return kept
        path = self.root / DECISIONS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if self.objects:
                create(self.objects.fs, f"{self.objects.root}/{DECISIONS}/{name}", text.encode())
            elif not path.is_file():
                write_text(path, text)
        return self.recall(name) or text

    def has(self, key: str) -> bool:
        """Return whether the state of `key` is complete."""
        if self.objects is None:
            return self._is_local(key)
        uploaded = f"{key}.tar" in self.objects.names(STATES)
        if not uploaded and self._is_local(key):  # made before object storage was configured
            self._upload(self._folder(key), key)
            return True
        return uploaded

    def refresh(self) -> None:
        """Discard the cached listings of the object storage, which are otherwise up to a second old."""
        if self.objects:
            self.objects.invalidate()

    def record(self, key: str) -> Record:
        """Return the provenance of state `key`. Raise UserError, with the remedy, if its file is damaged."""
        found: Record = read_json(self.folder(key) / RECORD, Record, REMEDY)
        return found

    def read(self, key: str) -> Network:
        """Load the network of state `key`. Raise UserError, with the remedy, if its files are damaged."""
        return blueprint.read(self.folder(key), REMEDY)

    def scratch_folder(self, key: str) -> Path:
        """Create the folder for checkpoints of the unfinished stage `key`; `put` removes it."""
        folder = self._parent(key) / f"{key}.unfinished"
        folder.mkdir(exist_ok=True)
        return folder

    def remove_scratch(self, key: str) -> None:
        """Remove the scratch folder of the finished stage `key`, which a process left that was killed in `put`."""
        folder = self._parent(key) / f"{key}.unfinished"
        if folder.is_dir():
            with self.lock(key):
                shutil.rmtree(folder, ignore_errors=True)

    def put(self, network: Network, record: Record) -> None:
        """Store `network` under the key of `record`, atomically: by one rename or one upload."""
        scratch = self.scratch_folder(record.key)
        temporary = scratch / "state"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        with removed_on_failure(temporary):
            blueprint.save(network, temporary)
            write_text(temporary / RECORD, json.dumps(asdict(record), indent=1))
        if self.objects:
            self._upload(temporary, record.key)
        if not self._is_local(record.key):  # downloaded meanwhile, if our lease expired and another process made it
            temporary.replace(self._folder(record.key))
            sync(self._folder(record.key).parent)
        shutil.rmtree(scratch)

    @contextmanager
    def lock(self, key: str, on_wait: Callable[[], None] | None = None) -> Iterator[None]:
        """Lock `key` against all other processes inside the `with` block; call `on_wait()` once if another holds it.
        The lock is released when its holder dies (in object storage: up to a minute later)."""
        lock = FileLock(self._lock_file(key))
        try:
            lock.acquire(blocking=False)
        except Timeout:
            if on_wait:
                on_wait()
            lock.acquire()
        try:
            with self.leases.lease(key, on_wait) if self.leases else nullcontext():
                self.refresh()  # the previous holder may have made it
                yield
        finally:
            lock.release()

    def is_locked(self, key: str) -> bool:
        """Return whether a process holds the lock of `key`."""
        return _is_file_locked(self._lock_file(key)) or (self.leases is not None and self.leases.is_leased(key))

    @contextmanager
    def exclusive(self, folder: Path, timeout: float = -1) -> Iterator[None]:
        """Lock the `folder` of an experiment or a sweep against all other processes inside the `with` block; download
        it first and upload it at the end. Raise filelock.Timeout if a process of this machine holds it for `timeout`
        seconds, or one of another machine for so long that it must be alive."""
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=timeout), self._lease(folder, timeout):
            remove_leftovers(folder)
            self.refresh()
            if self.objects:
                self.objects.pull(_prefix(folder), folder)
            try:
                yield
            finally:
                if self.objects:
                    self.objects.push(folder, _prefix(folder))

    def is_leased(self, folder: Path) -> bool:
        """Return whether a process works in the `folder` of an experiment or a sweep."""
        folder.mkdir(parents=True, exist_ok=True)
        return _is_file_locked(folder / ".lock") or (
            self.leases is not None and self.leases.is_leased(_lease_name(folder))
        )

    def push(self, folder: Path) -> None:
        """Upload the `folder` of an experiment or a sweep, if there is object storage. On failure log a warning:
        `exclusive` uploads it again at its end."""
        if self.objects:
            try:
                self.objects.push(folder, _prefix(folder))
            except OSError as error:
                log.warning("%s is not uploaded yet: %s", folder, error)

    def pull(self, folder: Path) -> None:
        """Download the `folder` of an experiment or a sweep, if there is object storage and no local process works in
        it."""
        if self.objects is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", blocking=False):
                self.objects.pull(_prefix(folder), folder)
        except Timeout:
            return

    def revoke(self, holder: str) -> None:
        """Revoke the leases of `holder` (see `lease.set_holder`), a process that is known to be dead. On failure log a
        warning: they expire by themselves."""
        if self.leases:
            try:
                self.leases.revoke(holder)
            except OSError as error:
                log.warning("the leases of a dead process expire in a minute: %s", error)

    def _lease(self, folder: Path, timeout: float) -> AbstractContextManager[None]:
        if self.leases is None:
            return nullcontext()
        longest = timeout if timeout < 0 else max(timeout, EXPIRY_SECONDS + 2 * POLL_SECONDS)
        return self.leases.lease(_lease_name(folder), timeout=longest)

    def _upload(self, folder: Path, key: str) -> None:
        assert self.objects is not None
        with tempfile.TemporaryDirectory(dir=self._parent(key)) as temporary:
            packed = Path(temporary) / "state.tar"
            with tarfile.open(packed, "w") as tar:
                for path in sorted(folder.iterdir()):
                    if folder.is_symlink() or path.is_symlink() or not path.is_file():
                        raise UserError(f"{path} is no file of a state, which is uploaded whole: remove it")
                    tar.add(path, path.name)
            self.objects.put(packed, _object_key(key))

    def _is_local(self, key: str) -> bool:
        return (self._folder(key) / RECORD).is_file()

    def _folder(self, key: str) -> Path:
        if not re.fullmatch(r"[\w-]+", key):
            raise UserError(f"{key!r} is no key of a state")
        return self.root / key[:2] / key

    def _parent(self, key: str) -> Path:
        folder = self.root / key[:2]
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _lock_file(self, key: str) -> Path:
        return self._parent(key) / f"{key}.lock"


def open_store(root: Path, url: str | None = None) -> Store:
    """Open the store below `root`, created if missing, as the cache of the object storage at `url` if given. Raise
    UserError if it is not writable."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=root).close()  # has a unique name: other processes may probe at the same time
    except OSError as error:
        raise UserError(
            f"cannot write to output folder {root}: {error.strerror} (choose another: output=FOLDER)"
        ) from error
    return Store(root, open_objects(url) if url else None)


def _is_file_locked(path: Path) -> bool:
    try:
        with FileLock(path, blocking=False):
            return False
    except Timeout:
        return True


def unpack(packed: Path, folder: Path, source: str) -> None:
    """Unpack the files of a state into `folder`. Raise UserError naming `source` for anything but a plain tar of them.

    Not compressed, and each a plain file no larger than the archive: neither links nor sparse files are ever packed.
    """
    with reading(source, OBJECT_REMEDY), tarfile.open(packed, "r:") as tar:
        members = tar.getmembers()
        most = packed.stat().st_size
        if sum(member.size for member in members) > most or not all(member.isreg() for member in members):
            raise UserError(f"{source} is no state ({OBJECT_REMEDY})")
        if odd := [member.name for member in members if not is_plain(member.name)]:
            raise UserError(f"{source} holds a file of the name {odd[0][:100]!r}, which is none ({OBJECT_REMEDY})")
        tar.extractall(folder, filter="data")
        if not (folder / RECORD).is_file():
            raise UserError(f"{source} holds no {RECORD} ({OBJECT_REMEDY})")


def _object_key(key: str) -> str:
    return f"{STATES}/{key}.tar"


def _prefix(folder: Path) -> str:
    """Return the key prefix of `folder`: `experiments/NAME` or `sweeps/NAME`."""
    return f"{folder.parent.name}/{folder.name}"


def _lease_name(folder: Path) -> str:
    return _prefix(folder).replace("/", "-")
