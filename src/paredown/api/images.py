"""Images as the API takes them: plain DataLoaders, a folder of class folders, or none."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

from paredown.api.loaders import Loader, generators_kept, known_labels, seed, taken
from paredown.core.errors import UserError, named_reason
from paredown.core.files import typed_path
from paredown.core.keys import digest
from paredown.data.images import Contents, ImageData, Split
from paredown.data.loaders import Batch

SAMPLED = 1000  # images that the key of a data set that is read image by image looks at
READ = 256  # images at once while labels are read
WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
NUMBERS = "one class number of each image, (B,) of whole numbers"
GIVE = "give train=, a DataLoader or a folder of class folders"
log = logging.getLogger("paredown")


class GivenImages:
    """The images and labels of a DataLoader, read by its data set, its collate function and its workers. The data set
    is read once here: for the labels, where it does not know them, and for the digest."""

    def __init__(self, loader: Loader, what: str) -> None:
        self.what = what
        self.dataset, self.settings = taken(loader, what)
        self.collate = self.settings["collate_fn"]
        images, labels = self._batch([0])
        self.shape = cast(tuple[int, int, int], tuple(images.shape[1:]))
        self.size = self.scaled = self.shape[1:]
        known = known_labels(self.dataset)
        if known is not None and known[0] != labels[0]:
            known = None  # what the data set gives has labels of its own
        self.labels, self.digest = self._read(known)

    def stream(
        self, batches: Sequence[Tensor], seeds: Sequence[Tensor] | None, device: torch.device
    ) -> Iterator[Batch]:
        """Yield the images (b, C, H, W) and labels (b,) of each of `batches` on `device`."""
        rows = [batch.tolist() for batch in batches]
        for images, labels in DataLoader(self.dataset, batch_sampler=rows, **self.settings):
            yield images.to(device, non_blocking=True), labels.to(device, torch.int64, non_blocking=True)

    def _read(self, known: NDArray[np.int64] | None) -> tuple[NDArray[np.int64], str]:
        """Return all labels, and a digest of them and, of a TensorDataset whose batches are its tensors' rows, of all
        images; of any other data set, of up to SAMPLED of them, read under a fixed seed."""
        size = len(self.dataset)  # type: ignore[arg-type]
        content, labels = hashlib.sha256(), []
        if type(self.dataset) is TensorDataset and self.collate is default_collate:
            sampled, shape = np.zeros(0, dtype=int), list(self.dataset.tensors[0].shape)
            content.update(_bytes(self.dataset.tensors[0]))
        else:
            sampled = np.linspace(0, size - 1, min(SAMPLED, size)).astype(int)
            shape = [len(sampled), *self.shape]
        wanted = sampled if known is not None else np.arange(size)
        if known is None:
            log.info("%s=: reading every image once for its label", self.what)
        with generators_kept():
            seed(0)
            for at in range(0, len(wanted), READ):
                rows = wanted[at : at + READ]
                images, found = self._batch(rows.tolist())
                if images.shape[1:] != self.shape:
                    raise UserError(
                        f"{self.what}= has images of {self.shape} and of {tuple(images.shape[1:])}: one shape"
                    )
                content.update(_bytes(images[torch.from_numpy(np.isin(rows, sampled))]))
                labels.append(found.numpy())
        every_label = known if known is not None else np.concatenate(labels).astype(np.int64)
        return every_label, digest([every_label.tolist(), shape, content.hexdigest()])

    def _batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the images (b, C, H, W) and labels (b,) of `rows`. Raise UserError where the loader gives others."""
        try:
            batch = self.collate([self.dataset[row] for row in rows])
        except Exception as error:
            raise UserError(
                f"{self.what}= cannot be read, images {rows[0]} to {rows[-1]}: {named_reason(error)}"
            ) from error
        if not isinstance(batch, list | tuple) or len(batch) != 2:
            raise UserError(f"{self.what}= must give pairs (images, labels), got {type(batch).__name__}")
        images, labels = batch
        if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
            got = f"{tuple(images.shape)} {images.dtype}" if isinstance(images, Tensor) else type(images).__name__
            raise UserError(f"{self.what}= must give batches of images (B, C, H, W) of floats, got {got}")
        if not isinstance(labels, Tensor) or labels.shape != (len(images),) or labels.dtype not in WHOLE:
            raise UserError(f"{self.what}= must give {NUMBERS}, got {_shown(labels)}")
        return images, labels


class NoImages:
    """Images that nobody gave: none to read."""

    labels: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = self.scaled = size

    def stream(
        self, batches: Sequence[Tensor], seeds: Sequence[Tensor] | None, device: torch.device
    ) -> Iterator[Batch]:
        """Yield nothing."""
        return iter(())


class _Sizes(dict[str, int]):
    """The number of images of each split; asking for training images that nobody gave is the mistake it is."""

    def __getitem__(self, name: str) -> int:
        found = super().__getitem__(name)
        if name == "train" and not found:
            raise UserError(f"this method reads training images: {GIVE}")
        return found


class GivenData(ImageData):
    """The images of `train` and `test`, each None where none were given, for a network of `classes` logits."""

    def __init__(
        self,
        train: GivenImages | None,
        test: GivenImages | None,
        input_shape: tuple[int, int, int],
        classes: int,
    ) -> None:
        channels = input_shape[0]
        super().__init__(name="given", mean=[0.0] * channels, std=[1.0] * channels, validation=0)
        self.given = {"train": train, "test": test}
        self.shape, self.logits = input_shape, classes

    def open(self) -> Contents:
        """Return the images. Raise UserError where they do not fit the network."""
        none = NoImages(self.shape[1:])
        for name, images in self.given.items():
            if images is not None:
                self._check_fits(name, images)
        prints = ["none" if images is None else images.digest for images in self.given.values()]
        names = tuple(str(number) for number in range(self.logits))
        return Contents(names, self.shape, self.given["train"] or none, self.given["test"] or none, digest(prints))

    def prepare(self) -> None:
        """Open the images, once; the splits are the loaders."""
        if self._splits is not None:
            return
        contents = self.open()
        self.input_shape, self.class_names = contents.input_shape, contents.class_names
        self.num_classes = len(contents.class_names)
        none = np.zeros(0, dtype=np.int64)
        rows = {
            name: np.arange(len(part.labels)) for name, part in (("train", contents.train), ("test", contents.test))
        }
        self._splits = {"train": (contents.train, rows["train"]), "val": (contents.train, none)}
        self._splits["test"] = (contents.test, rows["test"])
        self.sizes = _Sizes({name: len(chosen) for name, (_, chosen) in self._splits.items()})
        self.key = digest(self._identity(contents.fingerprint))

    @property
    def eval_splits(self) -> list[Split]:
        """The splits evaluated after an epoch: "test" where test images were given."""
        self.prepare()
        return ["test"] if self.sizes["test"] else []

    def _check_fits(self, name: str, images: GivenImages) -> None:
        if images.shape != self.shape:
            raise UserError(f"{name}= gives images of {images.shape}, the network is for {self.shape}")
        if len(images.labels) and not 0 <= images.labels.min() <= images.labels.max() < self.logits:
            least, most = images.labels.min(), images.labels.max()
            raise UserError(f"{name}= has labels from {least} to {most}, the network gives {self.logits} logits")

    def _parts(
        self, split: Split, images: int | None, device: torch.device | str, rank: int, world: int
    ) -> tuple[Any, NDArray[np.int64], Any, dict[str, Any]]:
        stored, rows, _, place = super()._parts(split, images, device, rank, world)
        if isinstance(stored, NoImages) and split == "train":
            raise UserError(f"this method reads training images: {GIVE}")
        return stored, rows, as_given, place


def as_given(images: Tensor) -> Tensor:
    """Return `images` as the loader gives them, float32, channels last."""
    return images.float().contiguous(memory_format=torch.channels_last)


def read_images(train: Loader | None, test: Loader | None) -> tuple[GivenImages | None, GivenImages | None]:
    """Return the images of the loaders that are given, each of which is read here alone."""
    found = [None if one is None else GivenImages(one, name) for name, one in (("train", train), ("test", test))]
    return found[0], found[1]


def folder_of(given: object) -> Path | None:
    """Return the folder that `given` is the path of, None where it is no path. Raise UserError for another path."""
    if not isinstance(given, str | Path):
        return None
    if not (folder := typed_path(given)).is_dir():
        raise UserError(f"there is no folder {given}: {GIVE}")
    return folder


def _bytes(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)


def _shown(labels: Any) -> str:
    """Say in a few words what is given as labels."""
    if isinstance(labels, Tensor):
        return f"{tuple(labels.shape)} {labels.dtype}"
    first = labels[0] if isinstance(labels, list | tuple) and labels else labels
    return f"{type(first).__name__} {first!r:.40}"
