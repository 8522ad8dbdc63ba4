"""Locality of the filters of a first layer: filters as images, measures, and z-scores against shuffled weights."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from paredown.layers.local import LocallyConnected2d
from paredown.layers.masked import maskable

LEAST = 20  # non-zero weights that a filter must have (Neyshabur 2020, Figs. 7 to 9)
WINDOW = 9  # pixels: the kernel of S-CONV
SHUFFLES = 100


def first_filters(model: nn.Module, input_shape: tuple[int, int, int], most: int, seed: int = 0) -> Tensor:
    """Sample at most `most` filters (n, C, H, W) of the first layer of `model` with `seed`, among those with at least
    LEAST non-zero weights: kernels of a convolution, else the weights of each unit on the whole image."""
    layer: Any = next(iter(maskable(model).values()))
    weight = layer.weight.detach().cpu()
    local = isinstance(layer, LocallyConnected2d)
    counts = (weight != 0).sum(dim=1).T.flatten() if local else (weight != 0).flatten(1).sum(dim=1)
    enough = (counts >= LEAST).nonzero().flatten()
    order = torch.randperm(len(enough), generator=torch.Generator().manual_seed(seed))
    units = enough[order[:most]]
    if local:
        return layer.cpu().filters(units)
    return weight[units] if isinstance(layer, nn.Conv2d) else weight[units].unflatten(1, input_shape)


def mass(filters: Tensor) -> Tensor:
    """Sum |w| over the channels of filters (n, C, H, W): (n, H, W)."""
    return filters.abs().sum(dim=1).double()


def radius(masses: Tensor) -> Tensor:
    """Compute the root mean square distance from the centroid of masses (n, H, W), in pixels: (n,)."""
    share = masses / masses.sum(dim=(1, 2), keepdim=True)
    variance = torch.zeros(len(masses), dtype=masses.dtype)
    for across, length in ((2, masses.shape[1]), (1, masses.shape[2])):
        position, along = torch.arange(length, dtype=masses.dtype), share.sum(dim=across)
        mean = (along * position).sum(dim=1, keepdim=True)
        variance += (along * (position - mean).square()).sum(dim=1)
    return variance.sqrt()


def window_share(masses: Tensor) -> Tensor:
    """Compute the largest share of each of masses (n, H, W) within a window of WINDOW x WINDOW pixels: (n,)."""
    height, width = (min(WINDOW, length) for length in masses.shape[1:])
    sums = pad(masses, (1, 0, 1, 0)).cumsum(dim=1).cumsum(dim=2)
    windows = sums[:, height:, width:] - sums[:, :-height, width:] - sums[:, height:, :-width]
    windows = windows + sums[:, :-height, :-width]
    return windows.flatten(1).amax(dim=1) / sums[:, -1, -1]


def neighbours(masses: Tensor) -> Tensor:
    """Compute the share of the non-zero pixels of masses (n, H, W) that have a non-zero 8-neighbour: (n,)."""
    present = (masses > 0).double()
    around = pad(present, (1, 1, 1, 1))
    height, width = present.shape[1:]
    others = torch.zeros_like(present)
    for row in range(3):
        for column in range(3):
            if (row, column) != (1, 1):
                others = torch.maximum(others, around[:, row : row + height, column : column + width])
    return (present * others).sum(dim=(1, 2)) / present.sum(dim=(1, 2))


MEASURES: dict[str, Callable[[Tensor], Tensor]] = {
    "radius": radius,
    "window_share": window_share,
    "neighbours": neighbours,
}


def locality(filters: Tensor, seed: int = 0) -> dict[str, float]:
    """Compute medians over `filters` (n, C, H, W) of each of MEASURES and, as NAME_z, of its z-score against SHUFFLES
    random permutations of the filter's pixels: sparsity changes the measures, but not the z-scores. A z-score that no
    filter has (all permutations equal) is left out."""
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, list[float]] = {}
    for original in mass(filters):
        orders = torch.stack([torch.randperm(original.numel(), generator=generator) for _ in range(SHUFFLES)])
        shuffled = original.flatten()[orders].unflatten(1, original.shape)
        for name, measure in MEASURES.items():
            value, null = float(measure(original[None])), measure(shuffled)
            values.setdefault(name, []).append(value)
            if (spread := float(null.std())) > 1e-12:
                values.setdefault(f"{name}_z", []).append((value - float(null.mean())) / spread)
    return {name: statistics.median(found) for name, found in values.items()}
