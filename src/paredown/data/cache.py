"""The cache of decoded images on disk: written once, memory-mapped by every process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paredown.core.errors import UserError
from paredown.core.files import read_json, reading, sync, sync_folder
from paredown.core.keys import digest

FORMAT = 1  # part of every entry's name: increase it when decoding changes
METADATA = "metadata.json"


@dataclass(frozen=True)
class Pixels:
    """Decoded images (n, H, W, C) uint8 and their labels (n,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Decoded:
    """A data set in memory. `fingerprint` is a hash of its content, independent of the source files."""

    class_names: tuple[str, ...]
    train: Pixels
    test: Pixels
    fingerprint: str


@dataclass(frozen=True)
class _Metadata:
    class_names: list[str]
    fingerprint: str


def file_state(files: Iterable[Path], root: Path) -> list[Any]:
    """Return what identifies the source files: path relative to `root`, size in bytes, modification time in ns."""
    return [[str(f.relative_to(root)), (s := f.stat()).st_size, s.st_mtime_ns] for f in files]


def cache_folder(root: Path, fallback: Path) -> Path:
    """Return `root`/.paredown if this user owns `root` and may write to it, else `fallback`."""
    try:
        status = root.stat()
    except FileNotFoundError:
        return fallback
    # the mode bits count too, since the superuser passes every access check
    ours = status.st_uid == os.geteuid() and bool(status.st_mode & stat.S_IWUSR)
    return root / ".paredown" if ours and root.is_dir() and os.access(root, os.W_OK) else fallback


def load(folder: Path, name: str, state: Any, decode: Callable[[], Decoded]) -> Decoded:
    """Load the data set whose sources are in `state` from `folder`; where it has none, call `decode` (in one process at
    a time) and save the result. Raise UserError if `folder` is not writable."""
    from filelock import FileLock

    entry = folder / f"{name}-{digest([FORMAT, state])}"
    if not (entry / METADATA).is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{entry}.lock"):
                if not (entry / METADATA).is_file():
                    _write(entry, decode())
        except OSError as error:
            raise UserError(
                f"cannot write decoded images to {folder}: {error.strerror or error} (dataset.cache=... takes another)"
            ) from error
    return _read(entry)


def fingerprint(class_names: Iterable[str], parts: Iterable[Pixels]) -> str:
    """Hash every pixel, label and class name."""
    content = hashlib.sha256(json.dumps(list(class_names)).encode())
    for part in parts:
        content.update(json.dumps(part.images.shape).encode())
        content.update(np.ascontiguousarray(part.images).data)
        content.update(np.ascontiguousarray(part.labels).data)
    return content.hexdigest()


def decoded(class_names: Iterable[str], train: Pixels, test: Pixels) -> Decoded:
    """Make a `Decoded`, computing its fingerprint."""
    names = tuple(class_names)
    return Decoded(names, train, test, fingerprint(names, (train, test)))


def _write(entry: Path, data: Decoded) -> None:
    for left in entry.parent.glob(f".{entry.name}.*"):  # of processes that were killed: the lock says that none writes
        shutil.rmtree(left, ignore_errors=True)
    temporary = entry.with_name(f".{entry.name}.{os.getpid()}")
    temporary.mkdir()
    try:
        for name, part in (("train", data.train), ("test", data.test)):
            np.save(temporary / f"{name}_images.npy", part.images, allow_pickle=False)
            np.save(temporary / f"{name}_labels.npy", part.labels, allow_pickle=False)
        metadata = {"class_names": data.class_names, "fingerprint": data.fingerprint}
        (temporary / METADATA).write_text(json.dumps(metadata))
        sync_folder(temporary)
        temporary.replace(entry)
        sync(entry.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # there is none after the rename


def _read(entry: Path) -> Decoded:
    remedy = f"delete {entry}, and it is made again"
    metadata: _Metadata = read_json(entry / METADATA, _Metadata, remedy)
    train, test = (_pixels(entry, name, len(metadata.class_names), remedy) for name in ("train", "test"))
    return Decoded(tuple(metadata.class_names), train, test, metadata.fingerprint)


def _pixels(entry: Path, name: str, classes: int, remedy: str) -> Pixels:
    paths = [entry / f"{name}_{part}.npy" for part in ("images", "labels")]
    # copy-on-write: pages are shared, yet writable, as torch requires
    images, labels = _map(paths[0], "c", np.uint8, remedy), _map(paths[1], None, np.int64, remedy)
    if images.ndim != 4 or labels.shape != images.shape[:1] or not len(labels) or not labels.min() >= 0:
        raise UserError(f"{paths[0]} and {paths[1].name} are no labelled images ({remedy})")
    if labels.max() >= classes:
        raise UserError(f"{paths[1]} has labels of {classes} and above ({remedy})")
    return Pixels(images, labels)


def _map(path: Path, mode: Any, kind: Any, remedy: str) -> NDArray[Any]:
    with reading(path, remedy):
        found: NDArray[Any] = np.load(path, mmap_mode=mode, allow_pickle=False)
        if found.dtype != kind:
            raise UserError(f"{path} holds {found.dtype} ({remedy})")
        return found
