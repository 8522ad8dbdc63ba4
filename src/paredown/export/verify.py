"""An export that lies somewhere, looked at again: its files are the certified ones and still give the same accuracy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from paredown.command import Failure
from paredown.errors import UserError
from paredown.export import certificate
from paredown.export.check import Images, batches, in_fresh_process

CLOSE = 0.1  # points of top-1: another processor rounds otherwise, and a tie may fall the other way


def verify(folder: Path, root: str | None = None) -> str:
    """What holds of the export in `folder`, in a line. UserError for a folder without a certificate and a file that is
    not the certified one; Failure where the accuracy is another. `root`: where the images lie now."""
    data = _read(folder / certificate.NAME)
    dataset = data["dataset"] | ({"root": root} if root else {})
    images = Images(dataset, data["split"])
    for entry in data["entries"].values():
        path = folder / entry["file"]
        if not path.exists():
            raise UserError(f"{path} is missing, which {certificate.NAME} speaks of")
        if certificate.sha256(path) != entry["sha256"]:
            raise UserError(f"{path} is not the file that was certified: damaged or changed since, export it again")
    labels = [label for _, part in batches(images) for label in part.tolist()]
    for name, entry in data["entries"].items():
        logits = in_fresh_process(name, folder / entry["file"], images).logits
        right = 100 * sum(int(a == b) for a, b in zip(logits.argmax(1).tolist(), labels, strict=True)) / len(labels)
        if not abs(right - entry["top1"]) <= CLOSE:
            raise Failure(
                f"{folder / entry['file']} has top-1 {right:.2f} % here, certified were {entry['top1']:.2f} %"
            )
    return (
        f"{folder}: {', '.join(data['entries'])} as certified, over {len(labels)} images of the {data['split']} split"
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"verify={path.parent}: no export lies there, it has no {path.name}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no certificate: {type(error).__name__}; export the run again") from error
    if not data.get("certified"):
        raise UserError(f"{path} says that this export is not equal to the trained network: do not ship it")
    return data
