"""Tiny-ImageNet, from its published folders or from parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from paredown.core.errors import UserError
from paredown.core.files import read_text
from paredown.data.cache import Decoded, decoded, file_state
from paredown.data.datasets.class_folders import Listing, class_folders, list_images
from paredown.data.images import Contents, ImageData, MissingImages
from paredown.data.parquet import LABELS, find_splits, read_parquet

ANNOTATIONS = "val_annotations.txt"
SIDE = 64
UNPACK = "unpack the archive again"


class TinyImageNet(ImageData):
    """Tiny-ImageNet (Stanford CS231n), 3 x 64 x 64; its validation images are the test split.

    `root` holds `train/<wnid>/images/` and `val/` with `val_annotations.txt` (or with one folder per
    class), or train and valid parquet files with columns `image` and `label`. Classes are numbered in the
    order of their WordNet ids.
    """

    def open(self) -> Contents:
        """Read parquet files if there are any, else the folders; both give the same images and key."""
        if found := find_splits(self.root, ("train",), ("valid", "validation", "val")):
            train, valid = found
            names = self.root / "classes.txt"
            files = [*train, *valid, *([names] if names.is_file() else [])]
            return self.cached(file_state(files, self.root), lambda: _from_parquet(train, valid, names))
        return self._open_folders()

    def _open_folders(self) -> Contents:
        if not (self.root / "train").is_dir() or not (self.root / "val").is_dir():
            raise MissingImages(
                "Tiny-ImageNet",
                self.root,
                "point dataset.root at the unpacked https://cs231n.stanford.edu/tiny-imagenet-200.zip, "
                "or at train.parquet and valid.parquet",
            )
        names = class_folders(self.root / "train")
        if len(names) < 2:
            raise UserError(f"{self.root / 'train'} holds {len(names)} class folders: it needs one per WordNet id")
        train = list_images(self.root / "train", names).arranged()
        valid = _list_valid(self.root / "val", names).arranged()
        files = file_state([*train.paths, *valid.paths], self.root)
        return self.cached(files, lambda: decoded(names, train.pixels(SIDE), valid.pixels(SIDE)))


def _list_valid(folder: Path, names: list[str]) -> Listing:
    annotations = folder / ANNOTATIONS
    if not annotations.is_file():
        return list_images(folder, names)
    label = {name: number for number, name in enumerate(names)}
    pairs: list[tuple[Path, int]] = []
    for number, line in enumerate(read_text(annotations, UNPACK).splitlines(), 1):
        columns: list[Any] = line.split("\t")
        if len(columns) < 2 or columns[1] not in label or Path(columns[0]).name != columns[0]:
            raise UserError(
                f"{annotations}, line {number}: expected a file name, a tab and one of the training classes"
            )
        pairs.append((folder / "images" / columns[0], label[columns[1]]))
    missing = next((path for path, _ in pairs if not path.is_file()), None)
    if missing is not None:
        raise UserError(f"{annotations} names {missing.name}, which is not in {folder / 'images'}")
    return Listing([path for path, _ in pairs], np.asarray([number for _, number in pairs], np.int64))


def _from_parquet(train: list[Path], valid: list[Path], names: Path) -> Decoded:
    train_pixels, classes = read_parquet(train, LABELS, SIDE)
    valid_pixels, _ = read_parquet(valid, LABELS, SIDE)
    if names.is_file():
        classes = [line.split()[0] for line in read_text(names, UNPACK).splitlines() if line.strip()]
    count = int(max(train_pixels.labels.max(), valid_pixels.labels.max())) + 1
    if classes and len(classes) < count:
        raise UserError(f"{names} lists {len(classes)} classes, the labels go up to {count - 1}")
    return decoded(classes or [str(label) for label in range(count)], train_pixels, valid_pixels)
