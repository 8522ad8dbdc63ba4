"""Certificate that exported files compute what was trained, from a comparison on every image of a split."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from paredown.core.errors import UserError
from paredown.core.formatting import si
from paredown.cost.latency import Latency
from paredown.export.check import Found
from paredown.export.files import EXPORT_AGAIN, size

NAME = "certificate.json"
ROUNDING = 1e-5  # of normalised values, which are of the order of 1


@dataclass(frozen=True)
class Quantised:
    """How a file was rounded: calibrated on `calibration` training images; `top1_before` is the trained network's top-1
    in percent, `drop` the points that the file loses, at most `max_drop` of them allowed."""

    calibration: int
    top1_before: float
    drop: float
    max_drop: float


@dataclass(frozen=True)
class Entry:
    """Comparison of one exported file with the trained network: the largest difference of any logit, absolute and
    relative to the largest logit; the fraction of images with equal predictions. `dense_bytes` is the size of the dense
    network in this format, `latency` the file's time beside the dense one's, where it is ONNX; see `files.Loaded` for
    the counts."""

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
    latency: tuple[Latency, ...] = ()
    quantised: Quantised | None = None

    @property
    def accepted(self) -> bool:
        """Whether the file may ship: equal, or quantised within the drop of accuracy that is allowed."""
        if self.quantised:
            return math.isfinite(self.largest_difference) and self.quantised.drop <= self.quantised.max_drop
        return self.equal


@dataclass(frozen=True)
class Certificate:
    """The comparisons of all files of an export, with the trained network's accuracy on `images` images of `split`, its
    MACs and the dense network's. `preparation` is the largest difference of any value that usage.py and the evaluation
    make of the same image files. `about` names experiment, run, machine and versions."""

    about: dict[str, Any]
    dataset: dict[str, Any]
    split: str
    images: int
    tolerance: float
    trained_top1: float
    trained_macs: int
    dense_macs: int
    preparation: float
    entries: dict[str, Entry]

    @property
    def equal(self) -> bool:
        """Whether every file is equal to the trained network within the tolerance, or quantised within the allowed
        drop, and usage.py to the evaluation."""
        return self.prepares_alike and all(entry.accepted for entry in self.entries.values())

    @property
    def prepares_alike(self) -> bool:
        """Whether usage.py prepares images as the evaluation does, up to the rounding of one multiply-add."""
        return self.preparation <= ROUNDING

    def data(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {"certified": self.equal} | asdict(self)

    def rows(self) -> list[list[str]]:
        """Return the table's header, followed by a row per file."""
        head = ["format", "equal", "largest difference", "same class", "top-1", "MACs", "on disk / dense", "faster"]
        return [head, *(_row(name, entry) for name, entry in self.entries.items())]

    def markdown(self) -> str:
        """Return the table in Markdown and the explanation of it."""
        head, *rows = self.rows()
        lines = ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)]
        return "\n".join(lines) + f"\n\n{self.words()}"

    def words(self) -> str:
        """Return the explanation of the table."""
        return (
            f"Each file was read in a separate process and run on all {self.images:,} images of the "
            f"{self.split} split; the trained network has top-1 {self.trained_top1:.2f} % there. Equal: no logit "
            f"differs by more than {self.tolerance:g} of the largest. MACs of one image: {self.trained_macs:,} counted "
            f"as trained, {self.dense_macs:,} dense; in brackets those that a file carries out on zero weights. From "
            f"wide, tall and square image files usage.py makes the evaluation's input, up to {self.preparation:.0e}."
        ) + "".join(self._more_words())

    def _more_words(self) -> Iterator[str]:
        if any(entry.latency for entry in self.entries.values()):
            yield (
                " Faster: the time of the dense network's ONNX over the file's under onnxruntime, image by image, on 1 "
                "and, where there are as many cores, on 2 threads, in turns, medians."
            )
        for name, entry in self.entries.items():
            if rounded := entry.quantised:
                yield (
                    f" {name}: weights and maps in 8 bits, calibrated on {rounded.calibration:,} training images; "
                    f"top-1 {rounded.top1_before:.2f} % before and {entry.top1:.2f} % after, {rounded.max_drop:g} "
                    "points of drop allowed."
                )


def compare(path: Path, found: Found, dense_bytes: int, logits: Tensor, labels: Tensor, tolerance: float) -> Entry:
    """Compare the outputs `found` of the file `path` with the trained network's `logits` (N, classes). Predictions can
    only differ where two logits are closer than the difference that `tolerance` allows."""
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
    """Return the top-1 accuracy in percent."""
    return 100 * float((logits.argmax(1) == labels).double().mean())


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, or of the names and contents of all files in a folder. Raise UserError where
    anything else is there."""
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if not file.is_file() or (path.is_dir() and file.is_symlink()):
            raise UserError(f"{file} is no file of an export ({EXPORT_AGAIN})")
        if path.is_dir():
            digest.update(f"{file.name}\n".encode())
        with file.open("rb") as content:
            hashlib.file_digest(content, lambda: digest)
    return digest.hexdigest()


def _row(name: str, entry: Entry) -> list[str]:
    faster = ", ".join(f"{one.speed_up:.2f}x" for one in entry.latency)
    idle = entry.macs - entry.active_macs
    macs = si(entry.active_macs) + (f" (+{si(idle)})" if idle else "")
    return [
        name,
        _verdict(entry),
        f"{entry.largest_difference:.1e}",
        f"{entry.equal_predictions:.2%}",
        f"{entry.top1:.2f} %",
        macs,
        f"{_bytes(entry.bytes)} / {_bytes(entry.dense_bytes)}",
        faster or "-",
    ]


def _verdict(entry: Entry) -> str:
    if entry.quantised:
        return f"{'' if entry.accepted else 'NO, '}{0.0 - entry.quantised.drop:+.2f} pt"
    return "yes" if entry.equal else "NO"


def _bytes(number: int) -> str:
    return f"{number / 1e6:.2f} MB" if number >= 1e5 else f"{number / 1e3:.1f} kB"
