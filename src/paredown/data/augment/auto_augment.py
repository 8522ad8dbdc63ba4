"""AutoAugment's policies (Cubuk et al., 2019) for a whole batch, on the training device.

Every operation equals torchvision's on single images, truncations included, except that a shear or rotation, which
takes the nearest pixel, may choose the other one of two at equal distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

PolicyName = Literal["cifar10", "imagenet", "svhn"]
BINS = 10  # levels of each magnitude
CHANCES = 2**24  # resolution of an operation's probability
BOUNDS = (2**31, CHANCES, CHANCES, 4)  # of the numbers drawn for an image: sub-policy, two chances, two signs


@dataclass(frozen=True)
class Policy:
    """Sub-policies of two operations each: index into OPERATIONS, probability, magnitude, and whether the sign is
    random; all (sub-policies, 2), on one device."""

    operation: Tensor
    probability: Tensor
    magnitude: Tensor
    signed: Tensor

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Apply a sub-policy to each of `images` (B, H, W, 3) uint8, by `draws` (B, 4) int64, drawn below BOUNDS."""
        images, chosen = images.clone(), draws[:, 0] % len(self.operation)
        for step in (0, 1):
            acts = draws[:, 1 + step] < self.probability[chosen, step] * CHANCES
            operations = torch.where(acts, self.operation[chosen, step], -1)
            minus = self.signed[chosen, step] & ((draws[:, 3] >> step) % 2 == 0)
            magnitudes = torch.where(minus, -1, 1) * self.magnitude[chosen, step]
            for index, operation in enumerate(OPERATIONS.values()):
                rows = (operations == index).nonzero().flatten()
                if len(rows):
                    images[rows] = operation(images[rows], magnitudes[rows])
        return images


@lru_cache
def policy(name: str, height: int, width: int, device: torch.device) -> Policy:
    """Build the policy `name` for images of this size from torchvision's table."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    table = AutoAugment(AutoAugmentPolicy(name)).policies
    names = list(OPERATIONS)
    levels = magnitudes(height, width)
    operation = [[names.index(op) for op, _, _ in pair] for pair in table]
    magnitude = [[0.0 if level is None else levels[op][level] for op, _, level in pair] for pair in table]
    probability = [[chance for _, chance, _ in pair] for pair in table]
    signed = [[op in SIGNED for op, _, _ in pair] for pair in table]
    return Policy(
        torch.tensor(operation, device=device),
        torch.tensor(probability, dtype=torch.float64, device=device),
        torch.tensor(magnitude, dtype=torch.float64, device=device),
        torch.tensor(signed, device=device),
    )


def magnitudes(height: int, width: int) -> dict[str, list[float]]:
    """Compute the magnitudes of levels 0 to 9: shears as slopes, translations in pixels (up to 150 of 331), rotations
    in degrees, enhancements as factor minus 1, bits kept by posterize, thresholds of solarize."""
    part = [level / (BINS - 1) for level in range(BINS)]
    shear, enhance = [0.3 * p for p in part], [0.9 * p for p in part]
    return {
        "ShearX": shear,
        "ShearY": shear,
        "TranslateX": [150 / 331 * width * p for p in part],
        "TranslateY": [150 / 331 * height * p for p in part],
        "Rotate": [30 * p for p in part],
        "Brightness": enhance,
        "Color": enhance,
        "Contrast": enhance,
        "Sharpness": enhance,
        "Posterize": [8 - round(4 * p) for p in part],
        "Solarize": [255 * (1 - p) for p in part],
    }


def _blend(images: Tensor, other: Tensor, magnitude: Tensor) -> Tensor:
    """Extrapolate from `other` to `images` by the factor 1 + magnitude, truncated to uint8."""
    factor = 1 + magnitude  # in float64: each weight is rounded once, as a Python float is
    weight, rest = (value.float()[:, None, None, None] for value in (factor, 1 - factor))
    return (weight * images + rest * other).clamp(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """Convert to ITU-R 601 luma (n, H, W, 1), truncated."""
    red, green, blue = images.unbind(-1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8)[..., None]


def _contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    return _blend(images, _grey(images).float().mean(dim=(1, 2, 3), keepdim=True), magnitude)


def _sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Blend with a blur by the 3 x 3 kernel of ones with 5 at its centre; the border is not blurred."""
    whole = images.short()
    rows = (whole[:, :-2] + whole[:, 1:-1]).add_(whole[:, 2:])
    sums = (rows[:, :, :-2] + rows[:, :, 1:-1]).add_(rows[:, :, 2:]).add_(whole[:, 1:-1, 1:-1], alpha=4)
    blurred = images.clone()
    blurred[:, 1:-1, 1:-1] = sums.float().div_(13).round_()
    return _blend(images, blurred, magnitude)


def _posterize(images: Tensor, magnitude: Tensor) -> Tensor:
    dropped = (8 - magnitude.long()).to(torch.uint8)[:, None, None, None]
    return (images >> dropped) << dropped


def _solarize(images: Tensor, magnitude: Tensor) -> Tensor:
    return torch.where(images >= magnitude.float()[:, None, None, None], 255 - images, images)


def _autocontrast(images: Tensor, _: Tensor) -> Tensor:
    low, high = (bound.float() for bound in images.flatten(1, 2).aminmax(dim=1))
    flat = low == high
    scale = torch.where(flat, 1.0, 255 / (high - low))[:, None, None]
    low = torch.where(flat, 0.0, low)[:, None, None]
    return ((images - low) * scale).clamp(0, 255).to(torch.uint8)


def _equalize(images: Tensor, _: Tensor) -> Tensor:
    """Equalise the histogram of each channel."""
    count, height, width, channels = images.shape
    values = images.flatten(1, 2).transpose(1, 2).flatten(0, 1).long()  # (n * channels, H * W)
    first = 256 * torch.arange(len(values), device=images.device)[:, None]
    histogram = torch.bincount((values + first).flatten(), minlength=256 * len(values)).view(-1, 256)
    step = (height * width - histogram.gather(1, values.amax(dim=1, keepdim=True))) // 255
    table = (histogram.cumsum(1) + step // 2) // step.clamp(min=1)
    table = pad(table, (1, 0))[:, :-1].clamp(0, 255)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table).to(torch.uint8)
    return table.gather(1, values).view(count, channels, height, width).permute(0, 2, 3, 1)


Coefficients = tuple[Tensor | float, Tensor | float, Tensor | float]
STAY_ACROSS, STAY_DOWN = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)


def _warp(images: Tensor, across: Coefficients, down: Coefficients) -> Tensor:
    """Take each pixel from the one nearest to (`across`, `down`) @ (x, y, 1), in pixels from the centre; 0 outside."""
    count, height, width, channels = images.shape
    column, row = _source(across, height, width, width, images), _source(down, height, width, height, images)
    inside = ((column >= 0) & (column < width)) & ((row >= 0) & (row < height))
    first = (height * width * torch.arange(count, device=images.device))[:, None, None]
    pixels = torch.cat([images.reshape(-1, channels), images.new_zeros(1, channels)])
    source = torch.where(inside, column + row * width + first, len(pixels) - 1)
    return pixels.index_select(0, source.flatten()).view_as(images)


def _source(coefficients: Coefficients, height: int, width: int, length: int, like: Tensor) -> Tensor:
    """Compute each pixel's source row or column, of `length`: (n or 1, H or 1, W or 1), broadcastable to (n, H, W)."""
    x, y = (torch.arange(n, device=like.device, dtype=torch.float64) - (n - 1) / 2 for n in (width, height))
    a, b, c = (value[:, None, None] if isinstance(value, Tensor) else value for value in coefficients)
    along_x = torch.zeros(1, device=like.device) if isinstance(a, float) and a == 0 else a * x
    along_y = torch.zeros(1, 1, device=like.device) if isinstance(b, float) and b == 0 else b * y[:, None]
    return (along_x + (c + (length - 1) / 2) + along_y).round_().long()


def _shear_x(images: Tensor, slope: Tensor) -> Tensor:
    return _warp(images, (1.0, slope, slope * (images.shape[1] / 2)), STAY_DOWN)  # the top edge stays


def _shear_y(images: Tensor, slope: Tensor) -> Tensor:
    return _warp(images, STAY_ACROSS, (slope, 1.0, slope * (images.shape[2] / 2)))


def _translate_x(images: Tensor, pixels: Tensor) -> Tensor:
    return _warp(images, (1.0, 0.0, -pixels.trunc()), STAY_DOWN)


def _translate_y(images: Tensor, pixels: Tensor) -> Tensor:
    return _warp(images, STAY_ACROSS, (0.0, 1.0, -pixels.trunc()))


def _rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Rotate counter-clockwise about the centre."""
    cosine, sine = (degrees * (math.pi / 180)).cos(), (degrees * (math.pi / 180)).sin()
    return _warp(images, (cosine, -sine, 0.0), (sine, cosine, 0.0))


# images (n, H, W, 3) uint8 and magnitudes (n,) float64 to images
OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Rotate": _rotate,
    "Brightness": lambda images, magnitude: _blend(images, torch.zeros_like(images), magnitude),
    "Color": lambda images, magnitude: _blend(images, _grey(images), magnitude),
    "Contrast": _contrast,
    "Sharpness": _sharpness,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": _autocontrast,
    "Equalize": _equalize,
    "Invert": lambda images, _: 255 - images,
}
SIGNED = frozenset(list(OPERATIONS)[:9])
