"""The augmentation pipeline, for a whole batch on the training device: AutoAugment, random crop, horizontal flip,
cutout, normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from paredown.core.constraints import Checked, NonNegativeInt
from paredown.core.keys import identity
from paredown.data.augment import auto_augment

# the columns of `Augmentation.draw`; from POLICY on those of an AutoAugment policy
TOP, LEFT, MIRROR, CUT_Y, CUT_X, SEED, POLICY = range(7)


@identity("augmentation")
@dataclass(frozen=True)
class Augmentation(Checked):
    """The augmentation of training images, in this order: AutoAugment with `policy` ("cifar10", "svhn" or "imagenet";
    Cubuk et al., 2019); zero-padding by `crop` pixels and a random crop of the original size; a horizontal flip with
    probability 1/2; cutout: a square of side `cutout` at a random centre set to the mean (DeVries and Taylor, 2017)."""

    section: ClassVar[str] = "dataset.augment"

    policy: auto_augment.PolicyName | None = None
    crop: NonNegativeInt = 0
    flip: bool = False
    cutout: NonNegativeInt = 0

    def draw(self, count: int, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw the random numbers of `count` images, (count, 10) int64 on the CPU; columns as named above.

        All columns are drawn whether used or not, so that enabling one augmentation does not change the others.
        """
        bounds = [2 * self.crop + 1, 2 * self.crop + 1, 2, height, width, 2**62, *auto_augment.BOUNDS]
        return torch.stack([torch.randint(bound, (count,), generator=generator) for bound in bounds], dim=1)

    def move(self, images: Tensor, draws: Tensor) -> Tensor:
        """Apply the policy, crop and flip to `images` (B, H, W, C) uint8, by `draws` (B, 10) on the same device."""
        if self.policy:
            chosen = auto_augment.policy(self.policy, images.shape[1], images.shape[2], images.device)
            images = chosen(images, draws[:, POLICY:])
        return _crop(images, draws, self.crop, self.flip) if self.crop or self.flip else images

    def cut(self, images: Tensor, draws: Tensor) -> Tensor:
        """Zero the cutout square in normalised `images` (B, C, H, W), in place."""
        if not self.cutout:
            return images
        rows = _inside(draws[:, CUT_Y], images.shape[2], self.cutout)
        columns = _inside(draws[:, CUT_X], images.shape[3], self.cutout)
        return images.masked_fill_((rows[:, :, None] & columns[:, None, :])[:, None], 0.0)


def _crop(images: Tensor, draws: Tensor, padding: int, flip: bool) -> Tensor:
    """Crop and flip with one gather: every window of a padded image, and of its mirror image, is a strided view."""
    count, height, width, channels = images.shape
    padded = pad(images, (0, 0, padding, padding, padding, padding))
    top, left = draws[:, TOP], draws[:, LEFT]
    source = torch.arange(count, device=images.device)
    if flip:
        mirror = draws[:, MIRROR]
        padded = torch.stack([padded, padded.flip(2)])
        source = source + mirror * count
        left = torch.where(mirror.bool(), 2 * padding - left, left)  # crop first, then mirror
    tall, wide = height + 2 * padding, width + 2 * padding
    windows = padded.as_strided(
        (padded.numel() // channels - (height - 1) * wide - width + 1, height, width * channels),
        (channels, wide * channels, 1),
    )
    return windows[(source * tall + top) * wide + left].view(count, height, width, channels)


def _inside(centre: Tensor, length: int, side: int) -> Tensor:
    start = centre[:, None] - side // 2
    position = torch.arange(length, device=centre.device)
    return (position >= start) & (position < start + side)


class Normalisation:
    """Normalisation, (image / 255 - mean) / std per channel, as one multiply-add over whole rows."""

    def __init__(self, mean: Sequence[float], std: Sequence[float], device: torch.device) -> None:
        deviation = torch.tensor(std, dtype=torch.float64)
        self.scale = (1 / (255 * deviation)).float().to(device)
        self.shift = (-torch.tensor(mean, dtype=torch.float64) / deviation).float().to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise (B, H, W, C) uint8 to (B, C, H, W) float32 with channels-last strides."""
        width, channels = images.shape[2:]
        rows = images.flatten(2).float()  # inner loops over W * C values, not over C: four times as fast on the CPU
        rows = torch.addcmul(self.shift.repeat(width), rows, self.scale.repeat(width))
        return rows.unflatten(2, (width, channels)).permute(0, 3, 1, 2)
