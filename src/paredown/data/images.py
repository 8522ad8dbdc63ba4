"""The base class of image data sets: splits, loaders, and a key of all that training sees."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval, Predicate
from numpy.typing import NDArray
from torch import Tensor

from paredown.core.constraints import Positive, Rule, checked, make
from paredown.core.errors import UserError, named_reason, nearest
from paredown.core.files import typed_path
from paredown.core.keys import digest
from paredown.core.paths import is_plain
from paredown.data.augment.pipeline import Augmentation, Normalisation
from paredown.data.cache import Decoded, cache_folder, load
from paredown.data.decode import centre, open_image
from paredown.data.loaders import Batch, EvalLoader, Images, MemoryImages, TrainLoader
from paredown.data.splits import sample_per_class, split

Split = Literal["train", "val", "test"]
HeldOut = Annotated[
    int | float,
    Predicate(lambda value: value >= 0 and (value < 1 or isinstance(value, int))),
    Rule("a count, or a fraction below 1; 0 holds out none"),
]
SplitSeed = Annotated[int, Interval(ge=0, lt=2**32), Rule("from 0 to 2**32 - 1")]
Classes = Annotated[int, Ge(2), Rule("at least 2; null keeps all")]
Kept = Annotated[float, Interval(gt=0, le=1), Rule("in (0, 1]: 0.2 keeps a fifth of the training images")]


@dataclass(frozen=True)
class Contents:
    """An opened data set: `input_shape` is (channels, height, width), `fingerprint` a hash of images and labels."""

    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int]
    train: Images
    test: Images
    fingerprint: str


class MissingImages(UserError):
    """A data set that is not where it is looked for: `what` is not in `root`, and in which `ways` it can be had."""

    def __init__(self, what: str, root: Path, ways: str) -> None:
        super().__init__(f"no {what} in {root}{'' if root.is_dir() else ' (there is no such folder)'}: {ways}")


@contextmanager
def fetching(what: str, root: Path, ways: str) -> Iterator[None]:
    """Hold `root` while `what` is downloaded into it. Raise UserError, with the `ways` to have it otherwise, where that
    fails."""
    from filelock import FileLock

    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".download.lock"):
            yield
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"no {what} in {root}, and it could not be downloaded ({named_reason(error)}): {ways}"
        ) from error


class ImageData(ABC):
    """Labelled images with a training, a validation and a test split; `prepare()` opens and splits them.

    `root` null means $PAREDOWN_DATA/<name>, or ./data/<name>. `validation` is a count, or a fraction below 1, of the
    training images, held out class by class with `split_seed`; 0 holds out none. `fraction` in (0, 1] keeps that part
    of the other training images, nested. `classes` keeps the first that many classes. `mean` and `std` are per channel,
    of images in [0, 1]. Raises UserError for values out of range.
    """

    @checked("dataset")
    def __init__(
        self,
        *,
        name: str,
        mean: Sequence[float],
        std: Sequence[Positive],
        root: str | Path | None = None,
        cache: str | Path = "outputs/cache",
        validation: HeldOut = 0.1,
        split_seed: SplitSeed = 0,
        fraction: Kept = 1.0,
        classes: Classes | None = None,
        augment: Mapping[str, Any] | None = None,
    ) -> None:
        if len(mean) != len(std):
            raise UserError(f"dataset.mean={list(mean)} and dataset.std={list(std)} need one number per channel")
        if "/" in name or not is_plain(name):  # it names folders of the cache
            raise UserError(f"dataset.name={name!r} is no name of a folder")
        self.name: str = name
        self.mean, self.std = tuple(mean), tuple(std)
        self.root = typed_path(root or Path(os.environ.get("PAREDOWN_DATA", "data")) / name).absolute()
        self.cache = typed_path(cache).absolute()
        self.validation, self.split_seed, self.fraction, self.classes = (
            validation,
            split_seed,
            fraction,
            classes,
        )
        self.augmentation = make(Augmentation, augment or {}, "dataset.augment")
        self._splits: dict[str, tuple[Images, NDArray[np.int64]]] | None = None

    @abstractmethod
    def open(self) -> Contents:
        """Find the images and read what is needed. Raise UserError saying how to get what is missing."""

    def cached(self, state: Any, decode: Callable[[], Decoded]) -> Contents:
        """Return the contents of a data set that fits into memory, from the cache; `decode` makes them where the cache
        has none for sources in this `state`."""
        data = load(cache_folder(self.root, self.cache), self.name, state, decode)
        _, height, width, channels = data.train.images.shape
        if data.test.images.shape[1:] != data.train.images.shape[1:]:
            raise UserError(f"{self.root}: test images are of another size than training images")
        train, test = MemoryImages(data.train), MemoryImages(data.test)
        return Contents(data.class_names, (channels, height, width), train, test, data.fingerprint)

    def prepare(self) -> None:
        """Open the data set and split it. Safe in several processes at once, and fast where a cache exists."""
        if self._splits is not None:
            return
        self.take(self.open())

    def take(self, contents: Contents) -> None:
        """Split `contents`, which are those of this data set."""
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
        self.fingerprint = contents.fingerprint
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
        }  # a new setting goes in only where it is not at its default

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
        """The splits evaluated after an epoch, in order: "val" where any image is held out, then "test"."""
        self.prepare()
        return ["val", "test"] if self.sizes["val"] else ["test"]

    @property
    def scaled(self) -> tuple[int, int]:
        """The height and width that evaluation scales an image to cover, before it cuts the input's from its centre."""
        return self._split("test")[0].scaled

    def evaluated(self, path: Path) -> Tensor:
        """Return the image file `path` as evaluation shows it to the network, (C, H, W) float32."""
        self.prepare()
        channels, height, width = self.input_shape
        image = centre(open_image(path, str(path)), self.scaled, (height, width))
        pixels = np.array(image.convert("L") if channels == 1 else image).reshape(1, height, width, channels)
        return Normalisation(self.mean, self.std, torch.device("cpu"))(torch.from_numpy(pixels))[0]

    def train_loader(
        self, batch_size: int, seed: int, device: torch.device | str, rank: int = 0, world: int = 1
    ) -> TrainLoader:
        """Return shuffled and augmented training batches of rank `rank` of `world`; `batch_size` is global."""
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
        """Return shuffled batches of `split`, or of `images` of it drawn at random by `split_seed`. An epoch has every
        image `passes` times, not augmented by default."""
        augmentation = self.augmentation if augmented else Augmentation()
        stored, rows, normalisation, place = self._parts(split, images, device, rank, world)
        rows = np.tile(rows, passes)
        return TrainLoader(stored, rows, augmentation, normalisation, batch_size=batch_size, seed=seed, **place)

    def balanced(
        self,
        split: Split,
        per_class: int,
        draws: int,
        seed: int,
        device: torch.device | str,
        *,
        chunk: int | None = None,
    ) -> Iterator[Batch]:
        """Return `draws` class-balanced samples of `split`, augmented as in training, in batches of `chunk` images.

        A sample is the first `per_class` images of each class under a permutation fixed by `seed` and its number,
        sorted by class; its last batch may be smaller, and None makes it one batch. Samples may overlap.
        Raise UserError naming a class that has fewer images.
        """
        seeds = [int(digest([seed, draw])[:8], 16) for draw in range(draws)]
        return chain.from_iterable([self._sample(split, per_class, seed, device, chunk) for seed in seeds])

    def _sample(
        self, split: Split, per_class: int, seed: int, device: torch.device | str, chunk: int | None
    ) -> TrainLoader:
        stored, rows, normalisation, place = self._parts(split, None, device, rank=0, world=1)
        rows = rows[sample_per_class(stored.labels[rows], self.class_names, per_class, seed)]
        place |= {"batch_size": chunk or len(rows), "seed": seed, "min_images": 1, "shuffle": False}
        return TrainLoader(stored, rows, self.augmentation, normalisation, **place)

    def chosen(self, split: Split, images: int | None) -> NDArray[np.int64]:
        """Return the positions in `split` of `images` images drawn at random by `split_seed`, sorted; None: of all."""
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
        """Return batches of `split`, or of `images` of it drawn at random by `split_seed`, in order and not augmented.
        `batch_size` is that of one rank."""
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
