"""Object storage behind an fsspec URL: objects by key, written atomically, and folders synchronised with it."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from functools import lru_cache
from pathlib import Path
from typing import Any

from paredown.core.errors import UserError, named_reason
from paredown.core.files import removed_on_failure
from paredown.core.paths import is_plain, linked

LISTING_SECONDS = 1.0  # for which a cached listing is used
OWNERS = "owners"  # folder of the leases, see `lease`
APPEND_ONLY = (".jsonl", ".journal")  # suffixes of files that only grow: the longer copy is the newer one
MACHINES = (".", "sent-")  # beginnings of the names of files that concern one machine: locks, halves, MLflow cursors

log = logging.getLogger("paredown")


class ObjectStore:
    """The objects below `root` of the file system `fs`. No reader ever sees a partly written object."""

    def __init__(self, fs: Any, root: str) -> None:
        self.fs, self.root = fs, root
        self._listings: dict[str, tuple[float, set[str]]] = {}  # by folder: when it was listed, and its names
        self._pushed: dict[str, tuple[int, int]] = {}  # by key: modification time and size of the file last moved

    def names(self, folder: str, fresh: bool = False) -> set[str]:
        """List `folder`; the result is at most `LISTING_SECONDS` old, or new if `fresh`."""
        listed_at, names = self._listings.get(folder, (float("-inf"), set()))
        if fresh or time.monotonic() - listed_at > LISTING_SECONDS:
            self.fs.invalidate_cache()
            try:
                names = {Path(name).name for name in self.fs.ls(f"{self.root}/{folder}", detail=False)}
            except FileNotFoundError:
                names = set()
            self._listings[folder] = (time.monotonic(), names)
        return names

    def invalidate(self) -> None:
        """Discard all cached listings."""
        self._listings.clear()

    def put(self, path: Path, key: str) -> None:
        """Upload the file `path` as the object `key`."""
        target = f"{self.root}/{self._checked(key)}"
        self.fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        if not self._is_folder:
            self.fs.put_file(str(path), target)
        else:  # unlike object storage, a local folder shows a file while it is being written
            part = f"{target}.{uuid.uuid4().hex}"
            with removed_on_failure(Path(part)):
                self.fs.put_file(str(path), part)
                Path(part).replace(target)

    def get(self, key: str, path: Path) -> bool:
        """Download the object `key` to `path`, replaced atomically; return False if there is no such object."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}")
        part.unlink(missing_ok=True)  # a link there would be followed
        try:
            with removed_on_failure(part):
                self.fs.get_file(f"{self.root}/{self._checked(key)}", str(part))
                part.replace(path)
        except FileNotFoundError:
            return False
        return True

    def push(self, folder: Path, prefix: str) -> None:
        """Upload the new and changed files of `folder` below `prefix`, except those of MACHINES. Links, and names that
        no other machine would take, are left out with a warning: what a link leads to is not the experiment's."""
        paths = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(MACHINES)]
        for path in sorted(paths, key=lambda path: path.suffix == ".jsonl"):  # after the files a journal refers to
            stamp, key = _stamp(path), f"{prefix}/{path.relative_to(folder).as_posix()}"
            if self._pushed.get(key) != stamp:
                if linked(folder, path.relative_to(folder).as_posix()) or not is_plain(key):
                    log.warning("%r is a link, or has a name that is none elsewhere: it is not uploaded", str(path))
                else:
                    self.put(path, key)
                self._pushed[key] = stamp

    def pull(self, prefix: str, folder: Path) -> None:
        """Download the objects below `prefix` to `folder`. An append-only file that is longer in `folder` (it grew
        during an outage) is kept, and uploaded by the next `push`. Raise UserError, before anything is written, for an
        object that would be a file outside of `folder`."""
        parent, _, last = prefix.rpartition("/")
        if last not in self.names(parent):
            return
        for name, bytes_there in self._sizes(prefix, folder).items():
            key, path = f"{prefix}/{name}", folder / name
            size = path.stat().st_size if path.is_file() else -1
            if path.suffix in APPEND_ONLY and size > bytes_there:
                self._pushed.pop(key, None)
            elif size != bytes_there and self.get(key, path):
                self._pushed[key] = _stamp(path)

    def _sizes(self, prefix: str, folder: Path) -> dict[str, int]:
        """Return the sizes of the objects below `prefix` by their path relative to it, which is one within `folder`."""
        self.fs.invalidate_cache()
        base, sizes = f"{self.root}/{prefix}/", {}
        for found, info in self.fs.find(f"{self.root}/{prefix}", detail=True).items():
            name = found.partition(base)[2]
            if not name or name.endswith("/"):  # folders that consoles make
                continue
            if not is_plain(name) or linked(folder, name):
                key = f"{prefix}/{name}"
                raise UserError(f"object {key!r} would be written outside of {folder}, or through a link: delete it")
            if Path(name).name.startswith(MACHINES):
                continue
            self._checked(f"{prefix}/{name}")
            sizes[name] = info["size"]
        return sizes

    def _checked(self, key: str) -> str:
        """Return `key`. Raise UserError for one that leads out of the store: by its parts or, in a folder, a link."""
        if not is_plain(key):
            raise UserError(f"{key!r} is no name of an object: it leads out of the store")
        if self._is_folder and linked(Path(self.root), key):
            raise UserError(f"{self.root}/{key} is a link, which may lead out of the store: delete it")
        return key

    @property
    def _is_folder(self) -> bool:
        """Whether the store is a folder (file:///) and no object storage."""
        return "file" in (self.fs.protocol if isinstance(self.fs.protocol, tuple) else (self.fs.protocol,))


def _stamp(path: Path) -> tuple[int, int]:
    """Return the modification time and the size of a file."""
    info = path.stat()
    return info.st_mtime_ns, info.st_size


class OSErrorFileSystem:
    """The file system `fs` with every failure as an OSError: each cloud library has its own exception classes."""

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
                raise OSError(named_reason(error)) from error

        return call if callable(found) else found


def create(fs: Any, path: str, content: bytes) -> bool:
    """Create the object `path`; return False if it exists. Of several concurrent calls exactly one returns True."""
    try:
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        with fs.open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


@lru_cache
def open_objects(url: str) -> ObjectStore:
    """Open the object store at `url`. Raise UserError if it cannot be reached or written, or if it cannot create an
    object exclusively."""
    import fsspec

    try:
        fs, root = fsspec.url_to_fs(url)
        probe = f"{root.rstrip('/')}/{OWNERS}/probe-{uuid.uuid4().hex}.0"
        exclusive = create(fs, probe, b"probe") and not create(fs, probe, b"probe")
        fs.rm_file(probe)
    except (ImportError, ValueError) as error:
        raise UserError(
            f"store={url} is no address: {named_reason(error)} (write s3://BUCKET/FOLDER, gs://, file:///)"
        ) from error
    except Exception as error:  # each file system has its own exception classes
        raise UserError(f"cannot write to store={url}: {named_reason(error)}") from error
    if not exclusive:
        raise UserError(f"store={url} overwrites existing objects on creation: processes cannot share it safely")
    return ObjectStore(OSErrorFileSystem(fs), root.rstrip("/"))
