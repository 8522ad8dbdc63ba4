"""Folders of class folders: anyone's images, and ImageNet."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paredown.data.cache import Decoded, Pixels, decoded, file_state
from paredown.data.decode import arrange, decode, open_image
from paredown.data.images import Contents, ImageData, check_numbers
from paredown.data.splits import split
from paredown.data.stream import FileImages
from paredown.errors import UserError
from paredown.plan import digest

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
GIB = 2**30


@dataclass(frozen=True)
class Listing:
    """Image files and their labels (n,)."""

    paths: list[Path]
    labels: NDArray[np.int64]

    def take(self, rows: Iterable[int]) -> Listing:
        """The files in `rows`, in that order."""
        rows = list(rows)
        return Listing([self.paths[row] for row in rows], self.labels[rows])

    def arranged(self) -> Listing:
        """In the order that `decode.arrange` gives."""
        return self.take(arrange(self.labels.tolist(), [path.name for path in self.paths]))

    def pixels(self, size: int | None) -> Pixels:
        """All images decoded; see `decode.decode`."""
        return Pixels(decode(self.paths, [str(path) for path in self.paths], size), self.labels)


def class_folders(folder: Path) -> list[str]:
    """The names of the folders in `folder`, sorted; hidden ones do not count."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def list_images(folder: Path, classes: Sequence[str]) -> Listing:
    """The images anywhere below `folder`/<class>, in a fixed order. Raises UserError for a class without
    any."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(path for path in (folder / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise UserError(f"{folder / name} holds no images ({', '.join(sorted(SUFFIXES))})")
        paths += found
        labels += [label] * len(found)
    return Listing(paths, np.asarray(labels, np.int64))


class Folder(ImageData):
    """A folder of class folders, or one with `train/` and `val/` (or `test/`) of class folders.

    Of a single folder a part `test` (a fraction, class by class) is kept for testing. `size` scales every
    image and cuts out the centre square; null where all have one size already. Up to `memory` GiB of pixels
    are decoded once; above that `workers` processes decode as training goes, with random resized crops to
    `size` in place of `augment.crop`.
    """

    def __init__(
        self,
        *,
        size: int | None = None,
        test: float = 0.2,
        memory: float = 2.0,
        workers: int = 2,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_numbers(int, size=1 if size is None else size, workers=workers)
        check_numbers(float, test=test, memory=memory)
        if not 0 < test < 1:
            raise UserError(f"dataset.test={test!r} is not between 0 and 1 (0.2 tests on a fifth)")
        if size is not None and size < 1:
            raise UserError(f"dataset.size={size!r} is not a number of pixels (null: as the images are)")
        if workers < 0:
            raise UserError(f"dataset.workers={workers} is below 0 (0 decodes in the training process)")
        self.side, self.test, self.memory, self.workers = size, test, memory, workers

    def open(self) -> Contents:
        """List the files; decode them or leave them to the workers."""
        names, train, test = self._list()
        pixels = self._pixels(train)
        if (len(train.paths) + len(test.paths)) * pixels * 3 > self.memory * GIB:
            return self._streamed(names, train, test)
        state = [self.side, self.test, file_state([*train.paths, *test.paths], self.root)]
        return self.cached(state, lambda: _decode(names, train, test, self.side))

    def _list(self) -> tuple[list[str], Listing, Listing]:
        if not self.root.is_dir():
            raise UserError(f"no images in {self.root}: point dataset.root at a folder with one folder per class")
        folders = class_folders(self.root)
        if "train" not in folders:
            listing = self._listing(self.root, folders)
            train, test = split(listing.labels, self.test, 1.0, seed=0)
            return folders, listing.take(train), listing.take(test)
        held_out = next((name for name in ("test", "val", "valid") if name in folders), None)
        if held_out is None:
            raise UserError(f"{self.root} has a folder train but none named test, val or valid")
        names = class_folders(self.root / "train")
        test_names = class_folders(self.root / held_out)
        if names != test_names and test_names:
            odd = sorted(set(names) ^ set(test_names))[0]
            raise UserError(f"{self.root}: class {odd!r} is in only one of train and {held_out}")
        return (
            names,
            self._listing(self.root / "train", names),
            self._listing(self.root / held_out, test_names),
        )

    def _listing(self, folder: Path, names: Sequence[str]) -> Listing:
        if len(names) < 2:
            raise UserError(f"{folder} holds {len(names)} class folders: it needs one folder of images per class")
        return list_images(folder, names).arranged()

    def _pixels(self, listing: Listing) -> int:
        if self.side is not None:
            return self.side**2
        first = open_image(listing.paths[0], str(listing.paths[0]))
        return first.width * first.height

    def _streamed(self, names: Sequence[str], train: Listing, test: Listing) -> Contents:
        if self.side is None:
            raise UserError(
                f"{self.root} holds more than dataset.memory={self.memory:g} GiB of pixels: "
                f"set dataset.size=N to decode them as training goes"
            )
        if self.augmentation.crop:
            raise UserError(
                f"dataset.augment.crop={self.augmentation.crop} is for images in memory: these are too many, "
                f"and get random resized crops (set it to 0)"
            )
        # names and sizes stand for the content: reading all of it would take longer than many trainings
        sizes = [[state[:2] for state in file_state(part.paths, self.root)] for part in (train, test)]
        content = digest([list(names), self.side, sizes, train.labels.tolist(), test.labels.tolist()])
        seen, unseen = (FileImages(part.paths, part.labels, self.side, self.workers) for part in (train, test))
        return Contents(tuple(names), (3, self.side, self.side), seen, unseen, content)


def _decode(names: Sequence[str], train: Listing, test: Listing, size: int | None) -> Decoded:
    return decoded(names, train.pixels(size), test.pixels(size))
