"""Object storage behind an fsspec URL: whole objects, folders kept alike, and names that one process in all holds."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import Timeout

from paredown.errors import UserError

BEAT = 15.0  # seconds between two signs of life of a holder
EXPIRY = 60.0  # seconds without one, on the watcher's own clock, after which a holder is taken for dead
PAUSE = 1.0  # seconds between two looks at a name that another holds
FRESH = 1.0  # seconds for which a listing is believed
OWNERS = "owners"
GROWING = (".jsonl", ".journal")  # of files that are only ever appended to: the longer copy is the newer one
GONE = b"gone"  # what is written over the sign of life of a holder that is known to be dead

log = logging.getLogger(__name__)


class Bucket:
    """The objects below `root` of the file system `fs`. An object appears whole or not at all.

    Holding a name saves work, no more: two processes that both believe they hold one (a network cut in two) make the
    same object twice, and either is right.
    """

    def __init__(self, fs: Any, root: str) -> None:
        self.fs, self.root = fs, root
        self._listed: dict[str, tuple[float, set[str]]] = {}
        self._beats: dict[str, tuple[bytes | None, float]] = {}  # others' last sign of life, and when it was new
        self._pushed: dict[str, tuple[int, int]] = {}

    def names(self, folder: str) -> set[str]:
        """What lies in `folder`, as it was at most `FRESH` seconds ago."""
        since, names = self._listed.get(folder, (float("-inf"), set()))
        if time.monotonic() - since > FRESH:
            self.fs.invalidate_cache()
            try:
                names = {Path(name).name for name in self.fs.ls(f"{self.root}/{folder}", detail=False)}
            except FileNotFoundError:
                names = set()
            self._listed[folder] = (time.monotonic(), names)
        return names

    def forget(self) -> None:
        """Believe no listing any longer."""
        self._listed.clear()

    def put(self, path: Path, name: str) -> None:
        """Keep the file `path` as `name`."""
        target = f"{self.root}/{name}"
        self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        if "file" not in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,)):
            self.fs.put_file(str(path), target)
        else:  # a folder shows a file that is half written, object storage does not
            part = f"{target}.{uuid.uuid4().hex}"
            self.fs.put_file(str(path), part)
            Path(part).replace(target)

    def get(self, name: str, path: Path) -> bool:
        """Write the object `name` to `path`, at once; False where there is none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            self.fs.get_file(f"{self.root}/{name}", str(part))
        except FileNotFoundError:
            part.unlink(missing_ok=True)
            return False
        part.replace(path)
        return True

    def push(self, folder: Path, name: str) -> None:
        """Keep what is new or changed in `folder` below `name`, but for hidden files and how far records were sent."""
        paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith((".", "sent-"))]
        for path in sorted(paths, key=lambda path: path.suffix == ".jsonl"):  # a journal speaks of files: they go first
            state = path.stat()
            stamp, target = (state.st_mtime_ns, state.st_size), f"{name}/{path.relative_to(folder)}"
            if self._pushed.get(target) != stamp:
                self.put(path, target)
                self._pushed[target] = stamp

    def pull(self, name: str, folder: Path) -> None:
        """Make `folder` hold what lies below `name`. A journal that is longer here stays, and the next `push` brings it
        there: the bucket was away when it grew."""
        parent, _, last = name.rpartition("/")
        if last not in self.names(parent):
            return
        self.fs.invalidate_cache()
        for found, info in self.fs.find(f"{self.root}/{name}", detail=True).items():
            path = folder / found.rpartition(f"{self.root}/{name}/")[2]
            target, size = f"{name}/{path.relative_to(folder)}", path.stat().st_size if path.is_file() else -1
            if path.suffix in GROWING and size > info["size"]:
                self._pushed.pop(target, None)
            elif size != info["size"]:
                self.get(target, path)

    @contextmanager
    def hold(self, name: str, waiting: Callable[[], None] | None = None, timeout: float = -1) -> Iterator[None]:
        """Hold `name` alone among all machines; `waiting()` is called once if another does, filelock.Timeout raised
        after so many seconds. Its holder is the owner object of the highest number, which is made where there is none
        and rewritten every `BEAT` seconds."""
        owner, stop = self._claim(name, waiting, timeout), threading.Event()
        beating = threading.Thread(target=self._beat, args=(owner, stop), name="beat", daemon=True)
        beating.start()
        try:
            yield
        finally:
            stop.set()
            beating.join()
            for old in self._owners(name):
                if _number(old) <= _number(owner):
                    self._remove(old)

    def held(self, name: str) -> bool:
        """Whether a process that lives holds `name`, as far as was seen."""
        if not any(other.startswith(f"{name}.") for other in self.names(OWNERS)):
            return False
        owners = self._owners(name)
        return bool(owners) and not self._dead(owners[-1])

    def drop(self, holder: str) -> None:
        """Free all that `holder` (see `sign_as`) has, which is known to be dead. The owners' numbers stay taken, for it
        may live behind a cut network."""
        self._listed.pop(OWNERS, None)
        for name in self.names(OWNERS):
            owner = f"{self.root}/{OWNERS}/{name}"
            try:
                if holder.encode() in self.fs.cat_file(owner).split():
                    self.fs.pipe_file(owner, GONE)
            except FileNotFoundError:
                continue  # let go of meanwhile

    def _claim(self, name: str, waiting: Callable[[], None] | None, timeout: float) -> str:
        until = time.monotonic() + timeout if timeout >= 0 else float("inf")
        while True:
            owners = self._owners(name)
            if not owners or self._dead(owners[-1]):
                number = _number(owners[-1]) + 1 if owners else 0
                if mine := self._take(name, number, owners):
                    return mine
                continue
            if time.monotonic() > until:
                raise Timeout(name)
            if waiting:
                waiting()
                waiting = None
            time.sleep(PAUSE)

    def _take(self, name: str, number: int, dead: list[str]) -> str | None:
        """The owner object `number` of `name`, if it is ours: nobody else made it, and the dead one is still there."""
        owner = f"{self.root}/{OWNERS}/{name}.{number}"
        if not create(self.fs, owner, _sign(0)):
            return None
        if dead and not self._dead(dead[-1]):
            self._remove(owner)
            return None
        return owner

    def _owners(self, name: str) -> list[str]:
        self._listed.pop(OWNERS, None)
        numbers = [_number(other) for other in self.names(OWNERS) if other.rpartition(".")[0] == name]
        return [f"{self.root}/{OWNERS}/{name}.{number}" for number in sorted(numbers)]

    def _dead(self, owner: str) -> bool:
        try:
            sign = self.fs.cat_file(owner)
        except FileNotFoundError:
            return False  # it has just let go: look again
        if sign == GONE:
            return True
        words = sign.decode().split()  # none at the moment in which a folder's owner is made or rewritten
        if words[:1] == [MACHINE] and not Path(f"/proc/{words[1]}").exists():
            return True
        seen, since = self._beats.get(owner, (None, 0.0))
        if sign != seen:
            self._beats[owner] = (sign, time.monotonic())
            return False
        return time.monotonic() - since > EXPIRY

    def _beat(self, owner: str, stop: threading.Event) -> None:
        count = 0
        while not stop.wait(BEAT):
            count += 1
            try:
                self.fs.pipe_file(owner, _sign(count))
            except OSError as error:  # the next one may come through
                log.warning("%s takes no sign of life: %s", owner, error)

    def _remove(self, owner: str) -> None:
        try:
            self.fs.rm_file(owner)
        except FileNotFoundError:
            log.debug("%s was gone already", owner)


class Plain:
    """The file system `fs`, all of whose failures are OSErrors: each cloud's library has errors of its own."""

    def __init__(self, fs: Any) -> None:
        self.fs = fs

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.fs, name)

        def call(*arguments: Any, **options: Any) -> Any:
            try:
                return found(*arguments, **options)
            except OSError:
                raise
            except Exception as error:
                raise OSError(_line(error)) from error

        return call if callable(found) else found


def create(fs: Any, path: str, content: bytes) -> bool:
    """Make the object `path` where there is none; False where there is one. Of several at once one gets True."""
    try:
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        with fs.open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


@lru_cache
def open_bucket(url: str) -> Bucket:
    """The objects below `url`. UserError for one that cannot be reached or written, or that makes an object twice."""
    import fsspec

    try:
        fs, root = fsspec.url_to_fs(url)
        probe = f"{root.rstrip('/')}/{OWNERS}/probe-{uuid.uuid4().hex}.0"
        exclusive = create(fs, probe, b"probe") and not create(fs, probe, b"probe")
        fs.rm_file(probe)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"store={url} is no address: {_line(error)} (write s3://BUCKET/FOLDER, gs://, file:///)"
        ) from error
    except Exception as error:  # each file system has errors of its own
        raise UserError(f"cannot write to store={url}: {_line(error)}") from error
    if not exclusive:
        raise UserError(f"store={url} makes an object where there is one already: no two processes can share it")
    return Bucket(Plain(fs), root.rstrip("/"))


def _number(owner: str) -> int:
    return int(owner.rpartition(".")[2])


def _sign(count: int) -> bytes:
    return f"{MACHINE} {os.getpid()} {ID} {count}".encode()


def _machine() -> str:
    """The same text in all processes that can see whether this one lives."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}-{Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux: the signs of life alone tell
        return uuid.uuid4().hex


def sign_as(holder: str) -> None:
    """Hold every name as `holder` from here on: whoever started this process knows it by that, and when it is dead."""
    global ID  # noqa: PLW0603 (one for the process, as its pid is)
    ID = holder


ID, MACHINE = uuid.uuid4().hex, _machine()


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
