"""What every data set of images shares: splits, loaders, and a key that says what a training sees."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from paredown.data.augment import Augmentation, Normalisation
from paredown.data.cache import Decoded, cache_folder, load
from paredown.data.loaders import EvalLoader, Images, MemoryImages, TrainLoader
from paredown.data.splits import split
from paredown.errors import UserError, nearest
from paredown.plan import digest

Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Contents:
    """An opened data set; `fingerprint` names its images and labels, `input_shape` is (channels, height,
    width)."""

    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    train: Images
    test: Images
    fingerprint: str


class ImageData(ABC):
    """Labelled images with a training, a validation and a test split; `prepare()` opens them.

    `root` null means $PAREDOWN_DATA/<name>, or ./data/<name>. `validation` is a count, or a fraction below
    1, of the training images, held out by class with `split_seed`; 0 holds out none. `fraction` in (0, 1]
    keeps that part of the other training images, nested. `classes` keeps the first so many classes. `mean`
    and `std` are per channel, of images in [0, 1]. Raises UserError.
    """

    def __init__(
        self,
        *,
        name: str,
        mean: Sequence[float],
        std: Sequence[float],
        root: str | None = None,
        cache: str = "outputs/cache",
        validation: float = 0.1,
        split_seed: int = 0,
        fraction: float = 1.0,
        classes: int | None = None,
        augment: Mapping[str, Any] | None = None,
    ) -> None:
        _check_split(validation, fraction, split_seed, classes)
        _check_channels(mean, std)
        self.name: str = name
        self.mean, self.std = tuple(mean), tuple(std)
        self.root = Path(root or Path(os.environ.get("PAREDOWN_DATA", "data")) / name).expanduser().absolute()
        self.cache = Path(cache).absolute()
        self.validation, self.split_seed, self.fraction, self.classes = (
            validation,
            split_seed,
            fraction,
            classes,
        )
        self.augmentation = _augmentation(augment or {})
        self._splits: dict[str, tuple[Images, NDArray[np.int64]]] | None = None

    @abstractmethod
    def open(self) -> Contents:
        """Find the images, and read what must be read. Raises UserError that says how to get what is
        missing."""

    def cached(self, state: Any, decode: Callable[[], Decoded]) -> Contents:
        """The contents of a small set: decoded from sources in `state` by `decode`, unless a cache holds
        them."""
        data = load(cache_folder(self.root, self.cache), self.name, state, decode)
        _, height, width, channels = data.train.images.shape
        if data.test.images.shape[1:] != data.train.images.shape[1:]:
            raise UserError(f"{self.root}: test images are of another size than training images")
        train, test = MemoryImages(data.train), MemoryImages(data.test)
        return Contents(data.class_names, (channels, height, width), train, test, data.fingerprint)

    def prepare(self) -> None:
        """Open the data set and split it; fast where a cache exists. Safe in several processes at once."""
        if self._splits is not None:
            return
        contents = self.open()
        self.input_shape = contents.input_shape
        self.class_names = contents.class_names[: self.classes]
        self.num_classes = len(self.class_names)
        self._check(contents)
        kept = np.flatnonzero(contents.train.labels < self.num_classes)
        train, val = split(contents.train.labels[kept], self.validation, self.fraction, self.split_seed)
        self._splits = {
            "train": (contents.train, kept[train]),
            "val": (contents.train, kept[val]),
            "test": (contents.test, np.flatnonzero(contents.test.labels < self.num_classes)),
        }
        self.sizes = {name: len(rows) for name, (_, rows) in self._splits.items()}
        self.key = digest(self._identity(contents.fingerprint))

    def _identity(self, fingerprint: str) -> dict[str, Any]:
        return {
            "images": fingerprint,
            "validation": self.validation,
            "split_seed": self.split_seed,
            "fraction": float(self.fraction),
            "classes": self.num_classes,
            "augmentation": self.augmentation,
            "mean": self.mean,
            "std": self.std,
        }

    def _check(self, contents: Contents) -> None:
        if self.classes is not None and self.classes > len(contents.class_names):
            raise UserError(
                f"dataset.classes={self.classes} is more than the {len(contents.class_names)} in {self.name}"
            )
        channels, height, width = contents.input_shape
        if len(self.mean) != channels:
            raise UserError(f"dataset.mean has {len(self.mean)} values, the images of {self.name} {channels} channels")
        if self.augmentation.policy and channels != 3:
            raise UserError(f"dataset.augment.policy={self.augmentation.policy} needs 3 channels, not {channels}")
        if max(self.augmentation.crop, self.augmentation.cutout) > min(height, width):
            raise UserError(
                f"dataset.augment has crop={self.augmentation.crop} and cutout={self.augmentation.cutout}, "
                f"the images are {width}x{height} pixels"
            )

    @property
    def eval_splits(self) -> list[Split]:
        """What is evaluated after an epoch, in order: "val" where any image is held out, then "test"."""
        self.prepare()
        return ["val", "test"] if self.sizes["val"] else ["test"]

    def train_loader(
        self, batch_size: int, seed: int, device: torch.device | str, rank: int = 0, world: int = 1
    ) -> TrainLoader:
        """Shuffled and augmented training batches of rank `rank` of `world`; `batch_size` is global."""
        return self.chosen_loader("train", batch_size, seed, device, rank, world, augmented=True)

    def chosen_loader(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        device: torch.device | str,
        rank: int = 0,
        world: int = 1,
        *,
        images: int | None = None,
        passes: int = 1,
        augmented: bool = False,
    ) -> TrainLoader:
        """Batches of any split to learn from: shuffled, `passes` times in an epoch, all of it or a random choice of
        `images` that `split_seed` fixes."""
        augmentation = self.augmentation if augmented else Augmentation()
        stored, rows, normalisation, place = self._parts(split, images, device, rank, world)
        rows = np.tile(rows, passes)
        return TrainLoader(stored, rows, augmentation, normalisation, batch_size=batch_size, seed=seed, **place)

    def chosen(self, split: Split, images: int | None) -> NDArray[np.int64]:
        """Which of the images of `split`, counted from 0: `images` at random by `split_seed`, rising; None: all."""
        count = self.sizes[split]
        # RandomState, because numpy promises its streams never change
        return np.sort(np.random.RandomState(self.split_seed).permutation(count)[: count if images is None else images])

    def eval_loader(
        self,
        split: Split,
        batch_size: int,
        device: torch.device | str,
        rank: int = 0,
        world: int = 1,
        *,
        images: int | None = None,
    ) -> EvalLoader:
        """The images of `split` as they are, all or those `chosen`; `batch_size` is that of one rank."""
        stored, rows, normalisation, place = self._parts(split, images, device, rank, world)
        return EvalLoader(stored, rows, normalisation, batch_size=batch_size, **place)

    def _parts(
        self, split: Split, images: int | None, device: torch.device | str, rank: int, world: int
    ) -> tuple[Images, NDArray[np.int64], Normalisation, dict[str, Any]]:
        stored, rows = self._split(split)
        place: dict[str, Any] = {"device": torch.device(device), "rank": rank, "world": world}
        return stored, rows[self.chosen(split, images)], Normalisation(self.mean, self.std, place["device"]), place

    def _split(self, name: str) -> tuple[Images, NDArray[np.int64]]:
        self.prepare()
        assert self._splits is not None
        if name not in self._splits:
            raise UserError(f"no split {name!r}: {nearest(name, self._splits)}")
        return self._splits[name]


def check_numbers(kind: type[int | float], **settings: Any) -> None:
    """Raises UserError for the first of the dataset's `settings` that is not a number, or not a whole one (`int`)."""
    allowed = (int,) if kind is int else (int, float)
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, allowed):
            raise UserError(f"dataset.{name}={value!r} is not a {'whole ' if kind is int else ''}number")


def _check_split(validation: float, fraction: float, seed: int, classes: int | None) -> None:
    check_numbers(int, split_seed=seed, classes=2 if classes is None else classes)
    check_numbers(float, fraction=fraction, validation=validation)
    if not 0 < fraction <= 1:
        raise UserError(f"dataset.fraction={fraction!r} is not in (0, 1] (0.2 keeps a fifth of the training images)")
    if validation < 0 or (isinstance(validation, float) and validation >= 1):
        raise UserError(f"dataset.validation={validation!r} is neither a count nor a fraction below 1 (0: none)")
    if not 0 <= seed < 2**32:
        raise UserError(f"dataset.split_seed={seed!r} is not between 0 and 2**32 - 1")
    if classes is not None and classes < 2:
        raise UserError(f"dataset.classes={classes!r} is below 2 (null keeps all)")


def _check_channels(mean: Sequence[float], std: Sequence[float]) -> None:
    numbers = all(isinstance(value, int | float) for value in [*mean, *std])
    if not numbers or len(mean) != len(std) or min(std) <= 0:
        raise UserError(f"dataset.mean={list(mean)} and dataset.std={list(std)} need one number per channel, std > 0")


def _augmentation(values: Mapping[str, Any]) -> Augmentation:
    known = ("policy", "crop", "flip", "cutout")
    for key in values:
        if key not in known:
            raise UserError(f"no augmentation {key!r} in dataset.augment: {nearest(str(key), known)}")
    return Augmentation(**values)
