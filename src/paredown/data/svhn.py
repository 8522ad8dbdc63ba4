"""SVHN, street view house numbers (Netzer et al. 2011), from its authors' .mat files, parquet files, or downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from paredown.data.cache import Decoded, Pixels, decoded, file_state
from paredown.data.decode import find_parquet, read_parquet
from paredown.data.images import Contents, ImageData
from paredown.errors import UserError

DIGITS = [str(digit) for digit in range(10)]
CROPPED = "cropped_digits"  # the configuration of Hugging Face's set, and its folder


class Svhn(ImageData):
    """73,257 training and 26,032 test digits of house numbers, 3 x 32 x 32; `extra` adds 531,131 easier ones to the
    training images.

    `root` holds `train_32x32.mat`, `test_32x32.mat` and for `extra` `extra_32x32.mat`, or parquet files of these splits
    (`image` and `label`). Where it holds neither and `download` is set, torchvision fetches them, checking MD5 sums.
    """

    def __init__(self, *, extra: bool = False, download: bool = True, **common: Any) -> None:
        super().__init__(**common)
        if not isinstance(extra, bool):
            raise UserError(f"dataset.extra={extra!r} is neither true nor false")
        self.extra, self.download = extra, download

    def open(self) -> Contents:
        """From parquet files where there are any, else from the .mat files, downloaded where they are missing."""
        root = self.root / CROPPED if (self.root / CROPPED).is_dir() else self.root
        parts = [find_parquet(root, split) for split in ("train", "test", *(["extra"] if self.extra else []))]
        if all(parts):
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
            raise UserError(f"no SVHN in {self.root}: {ways}, or set dataset.download=true")
        from filelock import FileLock
        from torchvision.datasets import SVHN
        from torchvision.datasets.utils import download_url

        known = {name: (url, md5) for url, name, md5 in SVHN.split_list.values()}
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / ".download.lock"):
                for file in files:  # one that is there and whole is not fetched again
                    url, md5 = known[file.name]
                    download_url(url, self.root, file.name, md5)
        except (OSError, RuntimeError) as error:
            raise UserError(f"no SVHN in {self.root}, and {url} did not answer ({error}): {ways}") from error


def _from_parquet(train: list[Path], test: list[Path]) -> Decoded:
    (train_pixels, _), (test_pixels, _) = read_parquet(train, ("label",)), read_parquet(test, ("label",))
    if max(train_pixels.labels.max(), test_pixels.labels.max()) >= len(DIGITS):
        raise UserError(f"{train[0].parent} has labels of 10 and above: this is not SVHN's {CROPPED}")
    return decoded(DIGITS, train_pixels, test_pixels)


def _from_mats(train: list[Path], test: Path) -> Decoded:
    parts = [_read(file) for file in train]
    pixels = Pixels(np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))
    return decoded(DIGITS, pixels, _read(test))


def _read(file: Path) -> Pixels:
    from scipy.io import loadmat

    try:
        content = loadmat(file, variable_names=["X", "y"])
        images: NDArray[np.uint8] = content["X"]  # (32, 32, 3, n)
        labels: NDArray[np.int64] = content["y"].astype(np.int64).flatten()
    except Exception as error:  # a damaged file makes scipy fail in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{file} is not a whole .mat file of SVHN: {reason} (delete it to fetch it again)") from error
    if images.ndim != 4 or images.shape[2] != 3 or images.shape[3] != len(labels) or images.dtype != np.uint8:
        raise UserError(f"{file} is not SVHN: it needs X (32, 32, 3, n) of uint8 and n labels in y")
    return Pixels(np.ascontiguousarray(images.transpose(3, 0, 1, 2)), labels % 10)  # a zero is called 10 there
