"""CIFAR-10 and CIFAR-100, from torchvision's folders, from parquet files, or downloaded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy._core.multiarray import _reconstruct
from numpy.typing import NDArray

from paredown.data.cache import Decoded, Pixels, decoded, file_state
from paredown.data.decode import find_parquet, read_parquet
from paredown.data.images import Contents, ImageData
from paredown.errors import UserError

CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class Cifar(ImageData):
    """CIFAR-10 or CIFAR-100 (Krizhevsky, 2009), 3 x 32 x 32.

    `root` holds torchvision's folder (`cifar-10-batches-py`, `cifar-100-python`), or train and test parquet
    files with columns `img` and `label` (`fine_label`). Where it holds neither and `download` is set,
    torchvision fetches the archive and checks its MD5 sum.
    """

    def __init__(self, *, variant: Literal[10, 100], download: bool = True, **common: Any) -> None:
        super().__init__(**common)
        if variant not in (10, 100):
            raise UserError(f"dataset.variant={variant!r} is neither 10 nor 100")
        self.variant, self.download = variant, download

    @property
    def folder(self) -> Path:
        """Torchvision's folder below `root`."""
        return self.root / ("cifar-10-batches-py" if self.variant == 10 else "cifar-100-python")

    def open(self) -> Contents:
        """From parquet files where there are any, else from torchvision's folder, downloaded where it is
        missing."""
        train, test = find_parquet(self.root, "train"), find_parquet(self.root, "test")
        if train and test:
            labels = ("fine_label", "label") if self.variant == 100 else ("label",)
            return self.cached(
                file_state([*train, *test], self.root),
                lambda: _from_parquet(train, test, labels, self.variant),
            )
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
            raise UserError(f"no CIFAR-{self.variant} in {self.root}: {ways}, or set dataset.download=true")
        from filelock import FileLock
        from torchvision.datasets import CIFAR10, CIFAR100
        from torchvision.datasets.utils import download_and_extract_archive

        known = CIFAR10 if self.variant == 10 else CIFAR100
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with FileLock(self.root / ".download.lock"):
                if not self._complete():  # another process may have fetched it
                    download_and_extract_archive(known.url, self.root, filename=known.filename, md5=known.tgz_md5)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"no CIFAR-{self.variant} in {self.root}, and {known.url} did not answer ({error}): {ways}"
            ) from error


def _from_parquet(train: list[Path], test: list[Path], labels: tuple[str, ...], variant: int) -> Decoded:
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
    names = meta.get("label_names") or meta["fine_label_names"]
    return decoded(names, Pixels(images, labels), _pixels(_read(test), test))


def _pixels(batch: dict[str, Any], file: Path) -> Pixels:
    labels = batch.get("labels") or batch.get("fine_labels")
    data = batch.get("data")
    if labels is None or not isinstance(data, np.ndarray) or data.shape != (len(labels), 3072):
        raise UserError(f"{file} is not a batch of CIFAR: it needs data (n, 3072) and n labels")
    images: NDArray[np.uint8] = data.astype(np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return Pixels(np.ascontiguousarray(images), np.asarray(labels, np.int64))


class _ArraysOnly(pickle.Unpickler):
    """The published batches are pickles. This reader builds lists, dicts, texts and numpy arrays and
    nothing else."""

    ALLOWED = frozenset({("multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")})

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            module = "multiarray"
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return _reconstruct if module == "multiarray" else getattr(np, name)


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return _ArraysOnly(stream).load()
    except (pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        raise UserError(
            f"{file} is not a whole batch of CIFAR: {error} (delete the folder, it is fetched again)"
        ) from error
