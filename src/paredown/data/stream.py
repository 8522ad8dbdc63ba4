"""Images too many for memory: decoded by workers as they are needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from paredown.data.decode import fit, open_image
from paredown.data.loaders import Batch
from paredown.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

ENLARGED = 256 / 224  # evaluation scales the shorter side to this many times the size before the centre is cut out


class FileImages:
    """Image files, seen in training through a random resized crop and in evaluation scaled and cut at the
    centre (Szegedy et al., 2015; 256 and 224 pixels for ImageNet). `workers` processes decode."""

    def __init__(self, paths: Sequence[Path], labels: NDArray[np.int64], size: int, workers: int) -> None:
        self.paths, self.labels, self.side, self.workers = paths, labels, size, workers
        self.size = (size, size)

    def stream(
        self, batches: Sequence[Tensor], seeds: Sequence[Tensor] | None, device: torch.device
    ) -> Iterator[Batch]:
        """See `loaders.Images`; the numbers in `seeds` fix each image's crop. Raises UserError for a
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
        except UserError as error:  # a worker's comes with its whole traceback
            raise UserError(str(error).strip().rpartition("UserError: ")[2]) from error


def _seeds(seeds: Sequence[Tensor] | None, batch: int, rows: Tensor) -> list[int | None]:
    return [None] * len(rows) if seeds is None else seeds[batch].tolist()


class _Files(Dataset[Batch]):
    def __init__(self, paths: Sequence[Path], labels: NDArray[np.int64], size: int) -> None:
        self.paths = np.array([str(path) for path in paths])  # one array: a list would be copied page by page by forks
        self.labels, self.size = labels, size

    def __getitem__(self, key: tuple[int, int | None]) -> Batch:
        row, seed = key
        image = open_image(Path(self.paths[row]), self.paths[row])
        seen = self._centre(image) if seed is None else self._random(image, seed)
        return torch.from_numpy(np.array(seen)), torch.tensor(self.labels[row])

    def _centre(self, image: Image) -> Image:
        square = fit(image, round(self.size * ENLARGED))
        margin = (square.width - self.size) // 2
        return square.crop((margin, margin, margin + self.size, margin + self.size))

    def _random(self, image: Image, seed: int) -> Image:
        from torchvision.transforms import v2

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return v2.RandomResizedCrop(self.size)(image)
