"""Files: bounded readers that answer damage in one line, and writers that leave a whole file or none."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.core.errors import Refusal, UserError, printable, reason

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_TEXT = 32 * 2**20  # bytes of a JSON or text file; the largest that is written has about one
MADE_AGAIN = "delete it, and it is made again"
ENDS = (KeyboardInterrupt, SystemExit, GeneratorExit)


@contextmanager
def reading(path: Path | str, remedy: str) -> Iterator[None]:
    """Turn whatever the body raises while it reads `path` into a UserError that names the file and the `remedy`.

    BaseException, because a panic of a library in Rust (safetensors, pydantic) is no Exception.
    """
    try:
        yield
    except ENDS:
        raise
    except UserError as error:
        if printable(str(path)) in str(error):
            raise
        if isinstance(error, Refusal):  # it has its own remedy
            raise Refusal(f"{path}: {error}") from error
        raise UserError(f"{path}: {error} ({remedy})") from error
    except FileNotFoundError as error:
        raise UserError(f"{error.filename or path} is missing ({remedy})") from error
    except MemoryError as error:
        raise UserError(f"{path} needs more memory than there is, or is damaged ({remedy})") from error
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in FAULTS:
            raise
        raise UserError(f"{path} cannot be read: {reason(error)} ({remedy})") from error


def read_text(path: Path, remedy: str, most: int = LARGEST_TEXT) -> str:
    """Return the text of a regular file of at most `most` bytes. Raise UserError for any other."""
    with reading(path, remedy):
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path} is no file ({remedy})")
        if found.st_size > most:
            raise UserError(f"{path} has {found.st_size:,} bytes, more than {most:,} ({remedy})")
        return path.read_bytes().decode("utf-8")


def read_json(path: Path, kind: Any, remedy: str) -> Any:
    """Return the contents of a JSON file as `kind`, see `parse_json`. Raise UserError where they differ."""
    with reading(path, remedy):
        return parse_json(read_text(path, remedy), kind)


def read_plain(path: Path, kind: Any, remedy: str) -> Any:
    """Return the contents of a JSON file as plain data that has at least the fields of `kind`. UserError if not."""
    with reading(path, remedy):
        text = read_text(path, remedy)
        parse_json(text, kind)
        return json.loads(text)


def parse_json(text: str | bytes, kind: Any) -> Any:
    """Return what `text` holds as `kind`, a dataclass or another type that pydantic knows; further fields are ignored.

    Nothing is converted. Raise UserError naming the first part that is of another type, or where `text` is no JSON.
    """
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: {first['msg']}" if where else first["msg"]) from error


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def read_tensors(path: Path, remedy: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file by name, memory-mapped. Raise UserError for a damaged one."""
    from safetensors.torch import load_file

    with reading(path, remedy):
        return load_file(path)


# of the machine, not of the file that was read
FAULTS = (errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ESTALE, errno.ETIMEDOUT)
# that a person must mend: disk full, quota, file size limit, read-only, no permission, a broken disk
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)


def typed_path(path: str | Path) -> Path:
    """Return `path` with ~ replaced by the home folder. Raise UserError where there is none to replace it by."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{path}: this user has no such home folder (is HOME set?): give the whole path") from error


def write_text(path: Path, text: str) -> None:
    """Write through a temporary name and a rename, so that no reader sees half a file, not even after a power cut."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file as `write_text` writes text; tensors that share memory, as tied weights do, each in
    full."""
    from safetensors.torch import save_file

    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        apart[name] = tensor.clone() if place in seen else tensor
        seen.add(place)
    with replacing(path) as temporary:
        save_file(apart, temporary, metadata=dict(metadata) if metadata else None)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add `path` to an OSError that names no file, as that of a write to a full disk."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path, and rename it to `path` when the body has written it and its bytes are on the disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with naming(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse it for folders, and keep names safe by themselves
        if not path.is_dir():
            raise
    finally:
        os.close(handle)


def user_cache() -> Path:
    """Return the user's cache folder of this package, which may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paredown"


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file `path` in hexadecimal; one that has not changed is read once by a process."""
    found = path.stat()
    return _sha256(path.resolve(), found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=64)
def _sha256(path: Path, *_state: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def removed_on_failure(path: Path) -> Iterator[None]:
    """Remove the file or folder `path` where the `with` block raises: a full disk needs the room."""
    try:
        yield
    except BaseException:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        raise


LEFTOVER = re.compile(r"\..+\.[^.]+\.([0-9]+)(?:-[0-9]+)?")


def remove_leftovers(folder: Path) -> None:
    """Remove what `replacing`, or a download to an ObjectStore's folder, left below `folder` in a process that was
    killed: `.NAME.EXTENSION.PID` and `.NAME.EXTENSION.PID-THREAD`."""
    for path in folder.rglob(".*"):
        found = LEFTOVER.fullmatch(path.name)
        if found and not path.is_dir() and not Path(f"/proc/{found[1]}").exists():
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait as `sync` does for every file of `folder`, and for their names: a rename may reach the disk before them."""
    for path in [*folder.iterdir(), folder]:
        sync(path)


def storage_failure(error: BaseException | None) -> str | None:
    """Return in words that a disk was full, read-only or not accessible, if `error` or one that it came from says so.
    Libraries raise classes of their own for it."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in STORAGE:
            place = f": {error.filename}" if error.filename else ""
            return f"{os.strerror(error.errno)}{place}"
        for number in STORAGE:
            if os.strerror(number) in str(error) and not isinstance(error, OSError):
                return " ".join(str(error).split())
        error = error.__cause__ or error.__context__
    return None
