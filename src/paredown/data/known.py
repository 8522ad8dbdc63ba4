"""The known sizes of public data sets: enough to plan with where their images are not here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paredown.core.errors import UserError
from paredown.data.images import Contents, Images
from paredown.data.loaders import Batch

EXTRA = 531_131  # more training images of SVHN, where dataset.extra asks for them


@dataclass(frozen=True)
class Known:
    """A data set of `shape` (channels, height, width), its `classes`, and how many images it has."""

    shape: tuple[int, int, int]
    classes: int
    train: int
    test: int

    def words(self) -> str:
        """Return the sizes in words."""
        channels, height, width = self.shape
        return f"{self.train:,} training and {self.test:,} test images of {channels}x{height}x{width}"


KNOWN = {
    "digits": Known((1, 8, 8), 10, 1_438, 359),
    "cifar10": Known((3, 32, 32), 10, 50_000, 10_000),
    "cifar100": Known((3, 32, 32), 100, 50_000, 10_000),
    "svhn": Known((3, 32, 32), 10, 73_257, 26_032),
    "tiny_imagenet": Known((3, 64, 64), 200, 100_000, 10_000),
    "imagenet": Known((3, 224, 224), 1000, 1_281_167, 50_000),
}


class Absent(Images):
    """Labels of images that are not here, as many of each class."""

    def __init__(self, name: str, count: int, classes: int, size: tuple[int, int]) -> None:
        self.name = name
        self.labels: NDArray[np.int64] = np.arange(count) % classes
        self.size = self.scaled = size

    def stream(
        self, batches: Sequence[Tensor], seeds: Sequence[Tensor] | None, device: torch.device
    ) -> Iterator[Batch]:
        """Raise UserError."""
        raise UserError(f"the images of {self.name} are not here, this plan needs them")


def known_of(config: Mapping[str, Any]) -> Known | None:
    """Return what is known of the data set of the settings `config`, None where nothing is."""
    found = KNOWN.get(str(config.get("name")))
    if found is None:
        return None
    size = config.get("size")
    shape = (found.shape[0], size, size) if isinstance(size, int) else found.shape
    return Known(shape, found.classes, found.train + EXTRA * bool(config.get("extra")), found.test)


def contents_of(name: str, known: Known) -> Contents:
    """Return the contents of the data set `name` without its images."""
    train, test = (Absent(name, count, known.classes, known.shape[1:]) for count in (known.train, known.test))
    return Contents(tuple(map(str, range(known.classes))), known.shape, train, test, "assumed")
