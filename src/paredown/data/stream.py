"""Streaming of image files that do not fit into memory, decoded by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from paredown.core.errors import UserError
from paredown.data.decode import centre, open_image
from paredown.data.loaders import Batch

if TYPE_CHECKING:
    from PIL.Image import Image

RESIZE_RATIO = 256 / 224  # of the shorter side to the centre crop, in evaluation


class FileImages:
    """Image files, decoded by `workers` processes: random resized crops in training (Szegedy et al., 2015), resize and
    centre crop in evaluation (256 and 224 pixels for ImageNet)."""

    def __init__(self, paths: Sequence[Path], labels: NDArray[np.int64], size: int, workers: int) -> None:
        self.paths, self.labels, self.side, self.workers = paths, labels, size, workers
        self.size = (size, size)
        self.scaled = scaled_side(size), scaled_side(size)

    def stream(
        self, batches: Sequence[Tensor], seeds: Sequence[Tensor] | None, device: torch.device
    ) -> Iterator[Batch]:
        """Yield the batches as `loaders.Images.stream` does; `seeds` fix the random crops. Raise UserError for a
        damaged image."""
        items = [list(zip(rows.tolist(), _seeds(seeds, i, rows), strict=True)) for i, rows in enumerate(batches)]
        loader: DataLoader[Batch] = DataLoader(
            _Files(self.paths, self.labels, self.side),
            batch_sampler=items,
            num_workers=min(self.workers, len(items)),
            pin_memory=device.type == "cuda",
        )
        try:
            for images, labels in loader:
                yield images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        except UserError as error:  # from a worker its message contains the traceback
            raise UserError(str(error).strip().rpartition("UserError: ")[2]) from error


def scaled_side(size: int) -> int:
    """Return the pixels of the shorter side of which evaluation cuts a square of `size`."""
    return round(size * RESIZE_RATIO)


def _seeds(seeds: Sequence[Tensor] | None, batch: int, rows: Tensor) -> list[int | None]:
    return [None] * len(rows) if seeds is None else seeds[batch].tolist()


class _Files(Dataset[Batch]):
    def __init__(self, paths: Sequence[Path], labels: NDArray[np.int64], size: int) -> None:
        self.paths = np.array([str(path) for path in paths])  # reference counts of a list would make forks copy it
        self.labels, self.size = labels, size

    def __getitem__(self, key: tuple[int, int | None]) -> Batch:
        row, seed = key
        image = open_image(Path(self.paths[row]), self.paths[row])
        cropped = self._centre(image) if seed is None else self._random(image, seed)
        return torch.from_numpy(np.array(cropped)), torch.tensor(self.labels[row])

    def _centre(self, image: Image) -> Image:
        side = scaled_side(self.size)
        return centre(image, (side, side), (self.size, self.size))

    def _random(self, image: Image, seed: int) -> Image:
        from torchvision.transforms import v2

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return v2.RandomResizedCrop(self.size)(image)
