"""AutoAugment's policies (Cubuk et al., 2019) for a whole batch at once, on the device that trains.

Every operation gives what torchvision's gives for one image, truncations included; but a shear or rotation, which takes
the nearest pixel, may take another of two at the same distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from paredown.errors import UserError, nearest

POLICIES = ("cifar10", "imagenet", "svhn")
BINS = 10  # levels of each magnitude
CHANCES = 2**24  # an operation's chance is drawn among as many
BOUNDS = (2**31, CHANCES, CHANCES, 4)  # of the numbers drawn for an image: sub-policy, two chances, two signs


@dataclass(frozen=True)
class Policy:
    """Sub-policies of two operations each: which of OPERATIONS, with what probability, at what magnitude, and whether
    its sign is drawn; all (sub-policies, 2), on one device."""

    operation: Tensor
    probability: Tensor
    magnitude: Tensor
    signed: Tensor

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Images (B, H, W, 3) uint8, each through the sub-policy of `draws` (B, 4) int64, drawn below BOUNDS."""
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


def check(name: str | None) -> None:
    """Raise UserError unless `name` is one of POLICIES or None."""
    if name is not None and name not in POLICIES:
        raise UserError(f"no augmentation policy {name!r}: {nearest(str(name), POLICIES)} (null: none)")


@lru_cache
def policy(name: str, height: int, width: int, device: torch.device) -> Policy:
    """The policy `name` for images of this size, from torchvision's table."""
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
    """The magnitude of each level 0 to 9: shears as slopes, translations in pixels (up to 150 of 331), rotations in
    degrees, enhancements as what is added to a factor of 1, bits to keep, the threshold of a solarisation."""
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
    """`images` times 1 + magnitude less `other` times magnitude, truncated to uint8."""
    factor = 1 + magnitude  # in float64: each weight is rounded once, as a number of Python is
    own, others = (weight.float()[:, None, None, None] for weight in (factor, 1 - factor))
    return (own * images + others * other).clamp(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """ITU-R 601 luma (n, H, W, 1), truncated."""
    red, green, blue = images.unbind(-1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).to(torch.uint8)[..., None]


def _contrast(images: Tensor, magnitude: Tensor) -> Tensor:
    return _blend(images, _grey(images).float().mean(dim=(1, 2, 3), keepdim=True), magnitude)


def _sharpness(images: Tensor, magnitude: Tensor) -> Tensor:
    """Against a blur by a 3 x 3 kernel of ones with 5 in its middle; the border has none."""
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
    """Each channel through the table that evens out its histogram."""
    count, height, width, channels = images.shape
    values = images.flatten(1, 2).transpose(1, 2).flatten(0, 1).long()  # a row per channel of an image
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
    """Each pixel from the nearest to (`across`, `down`) @ (x, y, 1), in pixels from the centre; 0 from outside."""
    count, height, width, channels = images.shape
    column, row = _source(across, height, width, width, images), _source(down, height, width, height, images)
    inside = ((column >= 0) & (column < width)) & ((row >= 0) & (row < height))
    first = (height * width * torch.arange(count, device=images.device))[:, None, None]
    pixels = torch.cat([images.reshape(-1, channels), images.new_zeros(1, channels)])
    source = torch.where(inside, column + row * width + first, len(pixels) - 1)
    return pixels.index_select(0, source.flatten()).view_as(images)


def _source(coefficients: Coefficients, height: int, width: int, length: int, like: Tensor) -> Tensor:
    """The nearest row or column, of `length`, for each pixel: (n or 1, H or 1, W or 1), what it does not depend on left
    out."""
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
    """Counter-clockwise about the centre."""
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
