"""Folders of class folders: user data sets, and ImageNet."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paredown.core.constraints import Count, NonNegative, NonNegativeInt, OpenFraction, checked
from paredown.core.errors import UserError
from paredown.core.keys import digest
from paredown.data.cache import Decoded, decoded, file_state
from paredown.data.datasets.class_folders import Listing, class_folders, find_splits, list_images
from paredown.data.decode import open_image
from paredown.data.images import Contents, ImageData, MissingImages
from paredown.data.splits import split
from paredown.data.stream import FileImages

GIB = 2**30
SHOWN = 5  # classes that are named
log = logging.getLogger("paredown")


class Folder(ImageData):
    """A folder of class folders, or one with `train/` and `val/` (or `test/`) of class folders.

    The fraction `test` of each class of a single folder becomes the test split. `size` resizes every image and crops
    the centre square; null if all have the same size. Up to `memory` GiB of pixels are decoded once; above that,
    `workers` processes decode during training, with random resized crops to `size` instead of `augment.crop`.
    """

    @checked("dataset")
    def __init__(
        self,
        *,
        size: Count | None = None,
        test: OpenFraction = 0.2,
        memory: NonNegative = 2.0,
        workers: NonNegativeInt = 2,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.side, self.test, self.memory, self.workers = size, test, memory, workers

    def open(self) -> Contents:
        """List the files; decode them if they fit into memory."""
        names, train, test = self._list()
        pixels = self._pixels(train)
        if (len(train.paths) + len(test.paths)) * pixels * 3 > self.memory * GIB:
            return self._streamed(names, train, test)
        state = [self.side, self.test, file_state([*train.paths, *test.paths], self.root)]
        return self.cached(state, lambda: _decode(names, train, test, self.side))

    def _list(self) -> tuple[list[str], Listing, Listing]:
        if not self.root.is_dir():
            raise MissingImages("images", self.root, "point dataset.root at a folder with one folder per class")
        splits = find_splits(self.root)
        names = class_folders(splits.train)
        train = self._listing(splits.train, names)
        if splits.test is None:
            rows, held_out = split(train.labels, self.test, 1.0, seed=0, setting="dataset.test")
            tested = train.take(held_out)
            if untested := sorted(set(range(len(names))) - set(tested.labels.tolist())):
                log.warning(
                    "%s: no image of %s is in the test split (dataset.test=%g of few), and top-1 says nothing of it",
                    self.root, ", ".join(names[label] for label in untested[:SHOWN]), self.test,
                )  # fmt: skip
            return names, train.take(rows), tested
        test_names = class_folders(splits.test)
        if names != test_names and test_names:
            odd = sorted(set(names) ^ set(test_names))[0]
            raise UserError(f"{self.root}: class {odd!r} is in only one of {splits.train.name} and {splits.test.name}")
        return names, train, self._listing(splits.test, test_names)

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
        # file names and sizes identify the content: reading all files would take too long
        sizes = [[state[:2] for state in file_state(part.paths, self.root)] for part in (train, test)]
        content = digest([list(names), self.side, sizes, train.labels.tolist(), test.labels.tolist()])
        trained, tested = (FileImages(part.paths, part.labels, self.side, self.workers) for part in (train, test))
        return Contents(tuple(names), (3, self.side, self.side), trained, tested, content)


def _decode(names: Sequence[str], train: Listing, test: Listing, size: int | None) -> Decoded:
    return decoded(names, train.pixels(size), test.pixels(size))
