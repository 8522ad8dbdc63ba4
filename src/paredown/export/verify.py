"""Verification of an existing export: its files are the certified ones and reach the certified accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from paredown.core.errors import UserError, printable
from paredown.core.files import read_plain
from paredown.core.requests import Failure
from paredown.core.trust import trust
from paredown.export import certificate
from paredown.export.check import Images, batches, in_fresh_process
from paredown.export.files import EXPORT_AGAIN, FILES, FORMATS
from paredown.export.own import require_own

TOLERANCE = 0.1  # percentage points of top-1: other processors round differently, which may break ties


@dataclass(frozen=True)
class _Entry:
    file: str
    sha256: str
    top1: float


@dataclass(frozen=True)
class _Certified:
    """What is read of a certificate, which has more."""

    certified: bool
    dataset: dict[str, Any]
    split: str
    entries: dict[str, _Entry]


def verify(folder: Path, root: str | None = None, trusts: Sequence[str] = ()) -> str:
    """Verify the export in `folder` and return the result as a line. `root` is the folder of the dataset, `trusts` are
    the names that the user trusts (`core.trust`).

    Raise UserError, before anything is loaded, for a folder without a certificate, for a file that is not the certified
    one, and for a program that this user neither exported nor trusts; Failure where the accuracy differs.
    """
    trust(trusts)
    data = _read(folder / certificate.NAME)
    dataset = data["dataset"] | ({"root": root} if root else {})
    images = Images(dataset, data["split"], tuple(trusts))
    for entry in data["entries"].values():
        path = folder / entry["file"]
        if not path.exists():
            raise UserError(f"{path} is missing, although {certificate.NAME} lists it")
        if certificate.sha256(path) != entry["sha256"]:
            raise UserError(f"{path} is not the file that was certified: damaged or changed since, export it again")
        if entry["file"] == FORMATS["program"]:
            require_own(path, entry["sha256"])
    labels = torch.cat([part for _, part in batches(images)])
    for name, entry in data["entries"].items():
        logits = in_fresh_process(name, folder / entry["file"], images).logits
        right = certificate.top1(logits, labels)
        if not abs(right - entry["top1"]) <= TOLERANCE:
            raise Failure(
                f"{folder / entry['file']} has top-1 {right:.2f} % here, certified were {entry['top1']:.2f} %"
            )
    return (
        f"{folder}: {', '.join(data['entries'])} as certified, over {len(labels)} images of the {data['split']} split"
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"verify={path.parent}: there is no export, it has no {path.name}")
    data: dict[str, Any] = read_plain(path, _Certified, EXPORT_AGAIN)
    if wrong := [name for name in data["entries"] if data["entries"][name]["file"] != FILES.get(name)]:
        raise UserError(f"{path}: {printable(wrong[0])!r} is no file of an export ({EXPORT_AGAIN})")
    if not data.get("certified"):
        raise UserError(f"{path} says that this export is not equal to the trained network: do not ship it")
    return data
