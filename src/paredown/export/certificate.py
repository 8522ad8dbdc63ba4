"""Whether an exported file computes what was trained: compared over every image of a split, kept as data and words."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from paredown.export.check import Found
from paredown.export.files import size
from paredown.frontier.figure import short

NAME = "certificate.json"


@dataclass(frozen=True)
class Entry:
    """One exported file beside the trained network. `largest_difference` of any logit, and the same as a share of the
    largest logit; `equal_predictions` is the share of images with the same class; `dense_bytes` is the file of the
    dense network in this format; see `files.Loaded` for the counts."""

    file: str
    sha256: str
    bytes: int
    dense_bytes: int
    weight_bytes: int
    macs: int
    active_macs: int
    top1: float
    largest_difference: float
    relative_difference: float
    equal_predictions: float
    equal: bool


@dataclass(frozen=True)
class Certificate:
    """What all files of an export were compared with: the trained network's accuracy on `images` images of `split`,
    its counted MACs and the dense network's. `about` names experiment, run, machine and versions."""

    about: dict[str, Any]
    dataset: dict[str, Any]
    split: str
    images: int
    tolerance: float
    trained_top1: float
    trained_macs: int
    dense_macs: int
    entries: dict[str, Entry]

    @property
    def equal(self) -> bool:
        """Whether every file is."""
        return all(entry.equal for entry in self.entries.values())

    def data(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {"certified": self.equal} | asdict(self)

    def rows(self) -> list[list[str]]:
        """The table for people: a head, then a row per file."""
        head = ["format", "equal", "largest difference", "same class", "top-1", "MACs", "on disk / dense"]
        return [head, *(_row(name, entry) for name, entry in self.entries.items())]

    def markdown(self) -> str:
        """The table in Markdown, and what it was measured on."""
        head, *rows = self.rows()
        lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
        return "\n".join(lines) + f"\n\n{self.words()}"

    def words(self) -> str:
        """What the table was measured on."""
        return (
            f"Each file was read in a process of its own and run over all {self.images:,} images of the "
            f"{self.split} split; the trained network has top-1 {self.trained_top1:.2f} % there. Equal: no logit "
            f"differs by more than {self.tolerance:g} of the largest. MACs of one image: {self.trained_macs:,} counted "
            f"as trained, {self.dense_macs:,} dense; in brackets those that a file carries out on zero weights."
        )


def compare(path: Path, found: Found, dense_bytes: int, logits: Tensor, labels: Tensor, tolerance: float) -> Entry:
    """The entry of the file `path`, from what was `found` of it, beside the `logits` (N, classes) as trained. A class
    can only differ where two logits lie as close together as the difference that `tolerance` allows."""
    difference = float((found.logits - logits).abs().max())
    relative = difference / max(float(logits.abs().max()), 1e-30)
    same = (found.logits.argmax(1) == logits.argmax(1)).double().mean()
    return Entry(
        path.name,
        sha256(path),
        size(path),
        dense_bytes,
        found.weight_bytes,
        found.macs,
        found.active_macs,
        top1(found.logits, labels),
        difference,
        relative,
        float(same),
        relative <= tolerance,  # false where it is not a number
    )


def top1(logits: Tensor, labels: Tensor) -> float:
    """Percent."""
    return 100 * float((logits.argmax(1) == labels).double().mean())


def sha256(path: Path) -> str:
    """Of a file, or of the names and contents of all files in a folder."""
    whole = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if path.is_dir():
            whole.update(f"{file.relative_to(path).as_posix()}\n".encode())
        whole.update(file.read_bytes())
    return whole.hexdigest()


def _row(name: str, entry: Entry) -> list[str]:
    idle = entry.macs - entry.active_macs
    macs = short(entry.active_macs) + (f" (+{short(idle)})" if idle else "")
    return [
        name,
        "yes" if entry.equal else "NO",
        f"{entry.largest_difference:.1e}",
        f"{entry.equal_predictions:.2%}",
        f"{entry.top1:.2f} %",
        macs,
        f"{_bytes(entry.bytes)} / {_bytes(entry.dense_bytes)}",
    ]


def _bytes(number: int) -> str:
    return f"{number / 1e6:.2f} MB" if number >= 1e5 else f"{number / 1e3:.1f} kB"
