"""Decoded images on disk: written once, memory-mapped by every process that trains on them."""

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

from paredown.errors import UserError
from paredown.plan import digest

FORMAT = 1  # part of every cache's name: raise it when decoding changes
METADATA = "metadata.json"


@dataclass(frozen=True)
class Pixels:
    """Decoded images (n, H, W, C) uint8 and their labels (n,) int64."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Decoded:
    """A data set in memory. `fingerprint` names the content, whatever files it came from."""

    class_names: tuple[str, ...]
    train: Pixels
    test: Pixels
    fingerprint: str


def file_state(files: Iterable[Path], root: Path) -> list[Any]:
    """What changes when a source file does: name below `root`, size in bytes, time of change in ns."""
    return [[str(f.relative_to(root)), (s := f.stat()).st_size, s.st_mtime_ns] for f in files]


def cache_folder(root: Path, fallback: Path) -> Path:
    """`root`/.paredown where root is a folder of ours that we may write into, else `fallback`."""
    try:
        status = root.stat()
    except FileNotFoundError:
        return fallback
    # the mode bits are asked as well, since for the superuser every access check passes
    ours = status.st_uid == os.geteuid() and bool(status.st_mode & stat.S_IWUSR)
    return root / ".paredown" if ours and root.is_dir() and os.access(root, os.W_OK) else fallback


def load(folder: Path, name: str, state: Any, decode: Callable[[], Decoded]) -> Decoded:
    """The data set decoded from sources in `state`: from `folder`, or by `decode`, which one process at a
    time runs.

    Raises UserError where `folder` cannot be written.
    """
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
    """A hash of every pixel, label and class name."""
    content = hashlib.sha256(json.dumps(list(class_names)).encode())
    for part in parts:
        content.update(json.dumps(part.images.shape).encode())
        content.update(np.ascontiguousarray(part.images).data)
        content.update(np.ascontiguousarray(part.labels).data)
    return content.hexdigest()


def decoded(class_names: Iterable[str], train: Pixels, test: Pixels) -> Decoded:
    """`Decoded` with its fingerprint worked out."""
    names = tuple(class_names)
    return Decoded(names, train, test, fingerprint(names, (train, test)))


def _write(entry: Path, data: Decoded) -> None:
    temporary = entry.with_name(f".{entry.name}.{os.getpid()}")
    temporary.mkdir()
    try:
        for name, part in (("train", data.train), ("test", data.test)):
            np.save(temporary / f"{name}_images.npy", part.images, allow_pickle=False)
            np.save(temporary / f"{name}_labels.npy", part.labels, allow_pickle=False)
        metadata = {"class_names": data.class_names, "fingerprint": data.fingerprint}
        (temporary / METADATA).write_text(json.dumps(metadata))
        temporary.replace(entry)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # gone already after the rename


def _read(entry: Path) -> Decoded:
    metadata = json.loads((entry / METADATA).read_text())
    train, test = (
        # copy-on-write: shared pages, yet writable as torch wants them
        Pixels(_map(entry / f"{name}_images.npy", "c"), _map(entry / f"{name}_labels.npy", None))
        for name in ("train", "test")
    )
    return Decoded(tuple(metadata["class_names"]), train, test, metadata["fingerprint"])


def _map(path: Path, mode: Any) -> NDArray[Any]:
    return np.load(path, mmap_mode=mode, allow_pickle=False)
