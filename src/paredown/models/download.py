"""Downloads of pretrained weights: kept by their address and their content, and whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import re
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit
from urllib.request import Request, urlopen
from uuid import uuid4

import torch

from paredown.core.errors import UserError, reason
from paredown.core.files import sha256
from paredown.tracking.client import public

SECONDS = 60  # without an answer before a download is given up
CHUNK = 1 << 20  # bytes
NAME = 80  # characters of a file's name that are kept: its end, with the suffix
log = logging.getLogger("paredown")


def downloaded(url: str) -> str:
    """Return the local file of `url`: the kept one, or a new download below torch's hub folder, at
    checkpoints/paredown/(address)/(SHA-256)/(name). Raise UserError if it cannot be had whole.

    What changes at the same address is not looked for: the log shows the SHA-256, and the file may be deleted.
    """
    try:
        urlsplit(url)
    except ValueError as error:
        raise UserError(f"model.weights={url} is no address: {error}") from error
    address = hashlib.sha256(urldefrag(url).url.encode()).hexdigest()[:16]
    folder, name = _hub() / "paredown" / address, _name(url)
    kept = [path for path in sorted(folder.glob(f"*/{name}")) if sha256(path) == path.parent.name]
    return str(kept[-1] if kept else _fetched(url, folder, name))


def torchvisions(url: str) -> str:
    """Return the local file of torchvision's `url`, shared with it in torch's hub folder; its name ends with the
    first digits of its SHA-256, which are checked. Raise UserError if it cannot be had whole."""
    path = _hub() / Path(urlsplit(url).path).name
    digits = path.stem.rpartition("-")[2]
    kept = path.is_file() and sha256(path).startswith(digits)
    if path.is_file() and not kept:
        log.warning("%s is not what its name says (SHA-256 %s): it is downloaded again", path, sha256(path))
    if not kept:
        _fetched(url, path.parent, path.name, digits).replace(path)
    return str(path)


def _fetched(url: str, folder: Path, name: str, digits: str = "") -> Path:
    """Download `url` to `folder`/(SHA-256)/`name` and return that path, which appears when all of it is there.
    Raise UserError otherwise, also where the SHA-256 does not begin with `digits`."""
    partial = folder / f".{uuid4().hex}.partial"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        digest = _received(url, partial)
        if not digest.startswith(digits):
            raise OSError(f"its SHA-256 is {digest}, not {digits}...")
        path = folder / digest / name
        path.parent.mkdir(exist_ok=True)
        log.info("model.weights: downloaded %s, SHA-256 %s", public(url).partition("?")[0], digest)
        return partial.replace(path)
    except (OSError, HTTPException, ValueError) as error:  # no network, no such page, cut off; no address
        raise UserError(
            f"cannot download {public(url)} ({reason(error)}): fetch it where that works, and give model.weights=PATH"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _received(url: str, path: Path) -> str:
    """Write what `url` sends to `path` and return its SHA-256. Raise OSError where it is empty or cut off, or where
    that could not be noticed."""
    digest, received = hashlib.sha256(), 0
    request = Request(url, headers={"User-Agent": "paredown"})
    with urlopen(request, timeout=SECONDS) as response, path.open("wb") as file:
        length: int | None = response.length
        if length is None and not response.chunked:
            raise OSError("the server does not say how long it is, so that a cut-off file would pass for a whole one")
        while chunk := response.read(CHUNK):
            file.write(chunk)
            digest.update(chunk)
            received += len(chunk)
    if length is not None and received != length:
        raise OSError(f"cut off after {received:,} of {length:,} bytes")
    if not received:
        raise OSError("it is empty")
    return digest.hexdigest()


def _hub() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _name(url: str) -> str:
    """Return a safe file name for `url`, with its suffix, by which the reader is chosen."""
    last = unquote(urlsplit(url).path).rpartition("/")[2]
    return re.sub(r"[^\w.-]", "_", last)[-NAME:].lstrip(".") or "weights"
