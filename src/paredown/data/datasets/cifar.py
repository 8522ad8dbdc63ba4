"""CIFAR-10 and CIFAR-100, from torchvision's folders, from parquet files, or downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from paredown.core.constraints import checked
from paredown.core.errors import UserError, printable
from paredown.data import pickled
from paredown.data.cache import Decoded, Pixels, decoded, file_state
from paredown.data.images import Contents, ImageData, MissingImages, fetching
from paredown.data.parquet import LABELS, find_splits, read_parquet

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Cifar(ImageData):
    """CIFAR-10 or CIFAR-100 (Krizhevsky, 2009), 3 x 32 x 32.

    `root` holds torchvision's folder (`cifar-10-batches-py`, `cifar-100-python`), or train and test parquet
    files with columns `img` and `label` (`fine_label`). If it holds neither and `download` is set, torchvision
    downloads the archive and checks its MD5 sum.
    """

    @checked("dataset")
    def __init__(self, *, variant: Literal[10, 100], download: bool = True, **common: Any) -> None:
        super().__init__(**common)
        self.variant, self.download = variant, download

    @property
    def folder(self) -> Path:
        """Torchvision's folder below `root`."""
        return self.root / ("cifar-10-batches-py" if self.variant == 10 else "cifar-100-python")

    def open(self) -> Contents:
        """Read parquet files if there are any, else torchvision's folder, downloaded if missing."""
        if found := find_splits(self.root, ("train",), ("test",)):
            train, test = found
            state = file_state([*train, *test], self.root)
            return self.cached(state, lambda: _from_parquet(train, test, self.variant))
        batches, last = self._files()
        if not self._complete():
            self._fetch()
        return self.cached(file_state([*batches, last], self.root), lambda: _from_batches(batches, last, self.folder))

    def _files(self) -> tuple[list[Path], Path]:
        if self.variant == 100:
            return [self.folder / "train"], self.folder / "test"
        return [self.folder / f"data_batch_{number}" for number in range(1, 6)], self.folder / "test_batch"

    def _complete(self) -> bool:
        batches, last = self._files()
        return all(file.is_file() for file in [*batches, last])

    def _fetch(self) -> None:
        ways = f"point dataset.root at a folder with {self.folder.name}/, or with train.parquet and test.parquet"
        if not self.download:
            raise MissingImages(f"CIFAR-{self.variant}", self.root, f"{ways}, or set dataset.download=true")
        from torchvision.datasets import CIFAR10, CIFAR100
        from torchvision.datasets.utils import download_and_extract_archive

        known = CIFAR10 if self.variant == 10 else CIFAR100
        with fetching(f"CIFAR-{self.variant}", self.root, ways):
            if not self._complete():  # another process may have fetched it
                download_and_extract_archive(known.url, self.root, filename=known.filename, md5=known.tgz_md5)


def _from_parquet(train: list[Path], test: list[Path], variant: int) -> Decoded:
    labels = ("fine_label", *LABELS) if variant == 100 else LABELS
    (train_pixels, names), (test_pixels, _) = read_parquet(train, labels), read_parquet(test, labels)
    if variant == 10:
        names = CIFAR10_NAMES
    if max(train_pixels.labels.max(), test_pixels.labels.max()) >= variant:
        raise UserError(f"{train[0].parent} has labels of {variant} and above: this is not CIFAR-{variant}")
    return decoded(names or [str(label) for label in range(variant)], train_pixels, test_pixels)


def _from_batches(train: list[Path], test: Path, folder: Path) -> Decoded:
    meta = _read(folder / ("batches.meta" if (folder / "batches.meta").is_file() else "meta"))
    parts = [_pixels(_read(file), file) for file in train]
    images = np.concatenate([part.images for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    names = meta.get("label_names", meta.get("fine_label_names"))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{folder} has no names of its classes: delete it, it is fetched again")
    last = _pixels(_read(test), test)
    if max(labels.max(initial=0), last.labels.max(initial=0)) >= len(names):
        raise UserError(f"{folder} has labels of {len(names)} and above: delete it, it is fetched again")
    return decoded(names, Pixels(images, labels), last)


def _pixels(batch: dict[str, Any], file: Path) -> Pixels:
    labels = batch.get("labels", batch.get("fine_labels"))
    data = batch.get("data")
    if (
        not isinstance(labels, list)
        or not all(type(label) is int and label >= 0 for label in labels)
        or not isinstance(data, np.ndarray)
        or data.shape != (len(labels), 3072)
        or data.dtype != np.uint8
    ):
        raise UserError(f"{file} is not a batch of CIFAR: it needs data (n, 3072) of bytes, and n labels")
    images: NDArray[np.uint8] = data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Pixels(np.ascontiguousarray(images), np.asarray(labels, np.int64))


def _read(file: Path) -> dict[str, Any]:
    try:
        return pickled.read(file)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} is not a whole batch of CIFAR: {printable(str(error))} (delete the folder, it is fetched again)"
        ) from error
