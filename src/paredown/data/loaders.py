"""Batches: which images, in which order, on which rank; normalised and augmented on the device that
trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from paredown.data.augment import SEED, Augmentation, Normalisation
from paredown.data.cache import Pixels
from paredown.errors import UserError
from paredown.plan import digest

Batch = tuple[Tensor, Tensor]
LEAST = 2  # images of a training batch on one rank: batch norm in training has no variance of one


class Images(Protocol):
    """A store of labelled images that yields batches of them."""

    labels: NDArray[np.int64]
    size: tuple[int, int]

    def stream(
        self, batches: Sequence[Tensor], seeds: Sequence[Tensor] | None, device: torch.device
    ) -> Iterator[Batch]:
        """For each of `batches` (rows of this store, (b,) int64) the images (b, H, W, C) uint8, or as the loader's
        `normalisation` takes them, and labels (b,) on `device`. `seeds` (one number per image) fixes any random
        change the store makes itself; None: makes none."""
        ...


class MemoryImages:
    """Decoded images. On the CPU they stay in the memory-mapped file, elsewhere they move to the device
    once."""

    def __init__(self, pixels: Pixels) -> None:
        self.labels = pixels.labels
        self.size = (pixels.images.shape[1], pixels.images.shape[2])
        self._tensors = {torch.device("cpu"): (torch.from_numpy(pixels.images), torch.from_numpy(pixels.labels))}

    def stream(
        self, batches: Sequence[Tensor], seeds: Sequence[Tensor] | None, device: torch.device
    ) -> Iterator[Batch]:
        """See `Images`."""
        images, labels = self._on(device)
        for rows in batches:
            own = rows.to(device, non_blocking=True)
            yield images.flatten(1).index_select(0, own).view(-1, *images.shape[1:]), labels[own]

    def _on(self, device: torch.device) -> Batch:
        if device not in self._tensors:
            images, labels = self._tensors[torch.device("cpu")]
            self._tensors[device] = (images.to(device), labels.to(device))
        return self._tensors[device]


class TrainLoader:
    """The training batches of one rank: (b, C, H, W) float32 with channels-last strides, and labels (b,)
    int64.

    `batch_size` is global. Order and augmentation of every image follow from `seed` and the epoch alone; of
    each global batch rank r takes every `world`-th image from r on, so the ranks' union is the batch of one
    process. An incomplete last batch is kept where every rank gets at least `least` images of it. Without
    `set_epoch` every pass is epoch 0.
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
        least: int = LEAST,
    ) -> None:
        if min(batch_size, len(rows)) < least * world:
            raise UserError(
                f"batches of {batch_size} from {len(rows)} images leave a rank fewer than {least}: "
                f"{world} ranks need batch_size and training images of at least {least * world}"
            )
        self.images, self.rows = images, torch.from_numpy(rows)
        self.augmentation, self.normalisation = augmentation, normalisation
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.rank, self.world, self.least, self.epoch = rank, world, least, 0

    @property
    def sampler(self) -> TrainLoader:
        """Itself: where Lightning looks for `set_epoch`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the order and augmentation of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        full, rest = divmod(len(self.rows), self.batch_size)
        return full + (rest >= self.least * self.world)

    def __iter__(self) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(int(digest([self.seed, self.epoch])[:15], 16))
        order = torch.randperm(len(self.rows), generator=generator)
        # one row of numbers per image, whatever batch or rank it lands in
        draws = self.augmentation.draw(len(self.rows), *self.images.size, generator)
        batches = [part[self.rank :: self.world] for part in order.split(self.batch_size)][: len(self)]
        seeds = [draws[batch, SEED] for batch in batches]
        stream = self.images.stream([self.rows[batch] for batch in batches], seeds, self.device)
        for batch, (images, labels) in zip(batches, stream, strict=True):
            own = draws[batch].to(self.device, non_blocking=True)
            yield self.augmentation.cut(self.normalisation(self.augmentation.move(images, own)), own), labels


class EvalLoader:
    """One rank's share of a split, in order and unchanged: every `world`-th image from `rank` on, none twice.

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
        own = torch.from_numpy(rows)[rank::world]
        self.batches = list(own.split(batch_size)) if len(own) else []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self.images.stream(self.batches, None, self.device):
            yield self.normalisation(images), labels
