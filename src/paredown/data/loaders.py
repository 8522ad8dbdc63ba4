"""Loaders: batches of each rank, in order, augmented and normalised on the training device."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paredown.core.errors import UserError
from paredown.core.keys import digest
from paredown.data.augment.pipeline import SEED, Augmentation, Normalisation
from paredown.data.cache import Pixels

Batch = tuple[Tensor, Tensor]
MIN_IMAGES = 2  # of a training batch on one rank: batch norm in training has no variance of one


class Images(Protocol):
    """Labelled images, in memory or in files, read in batches. In evaluation an image file is scaled to cover the
    height and width `scaled`, and `size` is cut from its centre."""

    labels: NDArray[np.int64]
    size: tuple[int, int]
    scaled: tuple[int, int]

    def stream(
        self, batches: Sequence[Tensor], seeds: Sequence[Tensor] | None, device: torch.device
    ) -> Iterator[Batch]:
        """Yield for each of `batches`, (b,) int64 indices, the images (b, H, W, C) uint8 (or whatever the loader's
        `normalisation` accepts) and labels (b,) on `device`. `seeds`, one number per image, fix the random crops of
        images decoded from files; None: no random crops."""
        ...


class MemoryImages:
    """Decoded images: memory-mapped on the CPU, copied once to any other device."""

    def __init__(self, pixels: Pixels) -> None:
        self.labels = pixels.labels
        self.size = self.scaled = (pixels.images.shape[1], pixels.images.shape[2])
        self._tensors = {torch.device("cpu"): (torch.from_numpy(pixels.images), torch.from_numpy(pixels.labels))}

    def stream(
        self, batches: Sequence[Tensor], seeds: Sequence[Tensor] | None, device: torch.device
    ) -> Iterator[Batch]:
        """Yield the batches as `Images.stream` does; nothing random is done to decoded images."""
        images, labels = self._on(device)
        for batch in batches:
            rows = batch.to(device, non_blocking=True)
            yield images.flatten(1).index_select(0, rows).view(-1, *images.shape[1:]), labels[rows]

    def _on(self, device: torch.device) -> Batch:
        if device not in self._tensors:
            images, labels = self._tensors[torch.device("cpu")]
            self._tensors[device] = (images.to(device), labels.to(device))
        return self._tensors[device]


class TrainLoader:
    """The training batches of one rank: images (b, C, H, W) float32, channels last, and labels (b,) int64.

    `batch_size` is global. The order (that of `rows` unless `shuffle`) and the augmentation of every image follow from
    `seed` and the epoch alone. Of each global batch rank r takes every `world`-th image from r on, so the ranks' union
    is the batch of one process. An incomplete last batch is kept where every rank gets at least `min_images` of it.
    Without `set_epoch` every pass is epoch 0.
    """

    def __init__(
        self,
        images: Images,
        rows: NDArray[np.int64],
        augmentation: Augmentation,
        normalisation: Callable[[Tensor], Tensor],
        *,
        batch_size: int,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        min_images: int = MIN_IMAGES,
        shuffle: bool = True,
    ) -> None:
        if min(batch_size, len(rows)) < min_images * world:
            raise UserError(
                f"batches of {batch_size} from {len(rows)} images leave a rank fewer than {min_images}: "
                f"{world} ranks need batch_size and training images of at least {min_images * world}"
            )
        self.images, self.rows = images, torch.from_numpy(rows)
        self.augmentation, self.normalisation = augmentation, normalisation
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.rank, self.world, self.epoch = rank, world, 0
        self.min_images, self.shuffle = min_images, shuffle

    @property
    def sampler(self) -> TrainLoader:
        """The loader itself, whose `set_epoch` Lightning calls."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, which fixes the order and augmentation of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.rows), self.batch_size)
        return full + (rest >= self.min_images * self.world)

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(int(digest([self.seed, self.epoch])[:15], 16))
        order = torch.randperm(len(self.rows), generator=generator)
        order = order if self.shuffle else torch.arange(len(self.rows))
        # one row of random numbers per image, independent of its batch and rank
        draws = self.augmentation.draw(len(self.rows), *self.images.size, generator)
        batches = [part[self.rank :: self.world] for part in order.split(self.batch_size)][: len(self)]
        seeds = [draws[batch, SEED] for batch in batches]
        stream = self.images.stream([self.rows[batch] for batch in batches], seeds, self.device)
        for batch, (images, labels) in zip(batches, stream, strict=True):
            numbers = draws[batch].to(self.device, non_blocking=True)
            yield self.augmentation.cut(self.normalisation(self.augmentation.move(images, numbers)), numbers), labels


class EvalLoader:
    """One rank's share of a split, in order and not augmented: every `world`-th image from `rank` on.

    `batch_size` is that of one rank. Ranks may differ by one batch in length.
    """

    def __init__(
        self,
        images: Images,
        rows: NDArray[np.int64],
        normalisation: Normalisation,
        *,
        batch_size: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.images, self.normalisation, self.device = images, normalisation, device
        share = torch.from_numpy(rows)[rank::world]
        self.batches = list(share.split(batch_size)) if len(share) else []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.images.stream(self.batches, None, self.device):
            yield self.normalisation(images), labels
