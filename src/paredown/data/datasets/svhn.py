"""SVHN, street view house numbers (Netzer et al. 2011), from its authors' .mat files, parquet files, or downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from paredown.core.constraints import checked
from paredown.core.errors import UserError
from paredown.data.cache import Decoded, Pixels, decoded, file_state
from paredown.data.images import Contents, ImageData, MissingImages, fetching
from paredown.data.mat import read_mat
from paredown.data.parquet import find_splits, read_parquet

DIGITS = [str(digit) for digit in range(10)]
FETCH = "delete it to fetch it again"
CROPPED = "cropped_digits"  # the configuration of Hugging Face's set, and its folder


class Svhn(ImageData):
    """73,257 training and 26,032 test digits of house numbers, 3 x 32 x 32; `extra` adds 531,131 easier ones to train.

    `root` holds `train_32x32.mat`, `test_32x32.mat` and for `extra` `extra_32x32.mat`, or parquet files of these splits
    (`image` and `label`). If it holds neither and `download` is set, torchvision downloads them and checks MD5 sums.
    """

    @checked("dataset")
    def __init__(self, *, extra: bool = False, download: bool = True, **common: Any) -> None:
        super().__init__(**common)
        self.extra, self.download = extra, download

    def open(self) -> Contents:
        """Read parquet files if there are any, else the .mat files, downloaded if missing."""
        root = self.root / CROPPED if (self.root / CROPPED).is_dir() else self.root
        if parts := find_splits(root, *((split,) for split in ("train", "test", *(["extra"] if self.extra else [])))):
            train, test = [file for files in (parts[0], *parts[2:]) for file in files], parts[1]
            return self.cached(file_state([*train, *test], self.root), lambda: _from_parquet(train, test))
        mats = [self.root / f"{split}_32x32.mat" for split in ("train", "test", *(["extra"] if self.extra else []))]
        if not all(file.is_file() for file in mats):
            self._fetch(mats)
        return self.cached(file_state(mats, self.root), lambda: _from_mats([mats[0], *mats[2:]], mats[1]))

    def _fetch(self, files: list[Path]) -> None:
        names = " and ".join(file.name for file in files)
        ways = f"point dataset.root at a folder with {names}, or with parquet files of these splits"
        if not self.download:
            raise MissingImages("SVHN", self.root, f"{ways}, or set dataset.download=true")
        from torchvision.datasets import SVHN
        from torchvision.datasets.utils import download_url

        known = {name: (url, md5) for url, name, md5 in SVHN.split_list.values()}
        with fetching("SVHN", self.root, ways):
            for file in files:  # skips files whose MD5 sum is right
                url, md5 = known[file.name]
                download_url(url, self.root, file.name, md5)


def _from_parquet(train: list[Path], test: list[Path]) -> Decoded:
    (train_pixels, _), (test_pixels, _) = read_parquet(train), read_parquet(test)
    if max(train_pixels.labels.max(), test_pixels.labels.max()) >= len(DIGITS):
        raise UserError(f"{train[0].parent} has labels of 10 and above: this is not SVHN's {CROPPED}")
    return decoded(DIGITS, train_pixels, test_pixels)


def _from_mats(train: list[Path], test: Path) -> Decoded:
    parts = [_read(file) for file in train]
    pixels = Pixels(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))
    return decoded(DIGITS, pixels, _read(test))


def _read(file: Path) -> Pixels:
    content = read_mat(file, {"X", "y"}, FETCH)
    images, labels = content["X"], content["y"].astype(np.int64).flatten()  # (32, 32, 3, n) and n
    if images.ndim != 4 or images.shape[2] != 3 or images.shape[3] != len(labels) or images.dtype != np.uint8:
        raise UserError(f"{file} is not SVHN: it needs X (32, 32, 3, n) of uint8 and n labels in y")
    if not len(labels) or labels.min() < 1 or labels.max() > len(DIGITS):
        raise UserError(f"{file} is not SVHN: its labels are not from 1 to {len(DIGITS)} ({FETCH})")
    return Pixels(np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels % 10)  # the files label a zero as 10
