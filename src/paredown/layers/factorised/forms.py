"""Factorisations of a convolution into two: its weight (n, c, kh, kw) as one matrix for each of g groups, and the two
layers that compute the products of the matrices' factors of rank r.

| factorisation    | matrices            | layers                                                   |
|------------------|---------------------|----------------------------------------------------------|
| vertical_first   | (c kh, n kw), g = 1 | kh x 1 to r channels, 1 x kw (Jaderberg et al. 2014)     |
| horizontal_first | (n kh, c kw), g = 1 | 1 x kw to r channels, kh x 1 (SVD-NAS, arXiv 2208.10404) |
| in_group         | (n, c/g kh kw)      | kh x kw in g groups to g r channels, 1 x 1 (g = 1: Zhang et al. 2016) |
| out_group        | (c, n/g kh kw)      | 1 x 1 to g r channels, kh x kw in g groups               |
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from paredown.core.errors import UserError, nearest
from paredown.layers.factorised.grouped_linear import GroupedLinear
from paredown.layers.geometry import output_size

Factorisation = Literal["vertical_first", "horizontal_first", "in_group", "out_group"]
FACTORISATIONS: tuple[Factorisation, ...] = get_args(Factorisation)
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Branch:
    """A pair of layers: a factorisation in `groups` groups, each of `rank`."""

    factorisation: Factorisation
    groups: int
    rank: int


Design = Sequence[Branch]  # of a layer, which becomes the sum of its branches


def kernel_shape(dense: nn.Module) -> Shape:
    """Return the shape (n, c, kh, kw) of the weight; a linear layer is a 1 x 1 convolution of one pixel."""
    weight: Tensor = dense.weight  # type: ignore[assignment]
    return (*weight.shape, 1, 1)[:4]


def full_rank(shape: Shape, factorisation: Factorisation, groups: int = 1) -> int:
    """Return the smaller side of a group's matrix, for a weight of `shape` (n, c, kh, kw)."""
    n, c, kh, kw = shape
    sides = {
        "vertical_first": (c * kh, n * kw),
        "horizontal_first": (n * kh, c * kw),
        "in_group": (n, c // groups * kh * kw),
        "out_group": (c, n // groups * kh * kw),
    }
    return min(sides[factorisation])


def group_counts(shape: Shape, factorisation: Factorisation) -> list[int]:
    """Return the numbers of groups that are possible, rising, for a weight of `shape` (n, c, kh, kw)."""
    channels = {"in_group": shape[1], "out_group": shape[0]}.get(factorisation, 1)
    return [groups for groups in range(1, channels + 1) if channels % groups == 0]


def matrices(weight: Tensor, factorisation: Factorisation, groups: int = 1) -> Tensor:
    """Return `weight` (n, c, kh, kw) as the matrices (g, rows, columns) to factorise."""
    n, c, kh, kw = weight.shape
    if factorisation == "vertical_first":
        return weight.permute(1, 2, 0, 3).reshape(1, c * kh, n * kw)
    if factorisation == "horizontal_first":
        return weight.transpose(1, 2).reshape(1, n * kh, c * kw)
    if factorisation == "in_group":
        return weight.reshape(n, groups, -1).transpose(0, 1)
    return weight.reshape(groups, n // groups, c, kh * kw).transpose(1, 2).reshape(groups, c, -1)


def kernel(products: Tensor, factorisation: Factorisation, shape: Shape) -> Tensor:
    """Return the weight of `shape` (n, c, kh, kw) whose `matrices` are `products` (g, rows, columns)."""
    (n, c, kh, kw), groups = shape, len(products)
    if factorisation == "vertical_first":
        return products.reshape(c, kh, n, kw).permute(2, 0, 1, 3)
    if factorisation == "horizontal_first":
        return products.reshape(n, kh, c, kw).transpose(1, 2)
    if factorisation == "in_group":
        return products.transpose(0, 1).reshape(shape)
    return products.reshape(groups, c, n // groups, kh, kw).transpose(1, 2).reshape(shape)


def pair_weights(left: Tensor, right: Tensor, factorisation: Factorisation, shape: Shape) -> tuple[Tensor, Tensor]:
    """Return the weights of the two convolutions whose matrices are `left` (g, rows, r) times `right` (g, r, columns),
    for a dense weight of `shape` (n, c, kh, kw)."""
    (n, c, kh, kw), (groups, _, rank) = shape, left.shape
    if factorisation == "vertical_first":
        return left.reshape(c, kh, rank, 1).permute(2, 0, 1, 3), right.reshape(rank, n, 1, kw).transpose(0, 1)
    if factorisation == "horizontal_first":
        return right.reshape(rank, c, 1, kw), left.reshape(n, kh, rank, 1).transpose(1, 2)
    if factorisation == "in_group":
        return right.reshape(-1, c // groups, kh, kw), left.transpose(0, 1).reshape(n, -1, 1, 1)
    second = right.reshape(groups, rank, n // groups, kh, kw).transpose(1, 2)
    return left.transpose(1, 2).reshape(-1, c, 1, 1), second.reshape(n, rank, kh, kw)


def product(first: Tensor, second: Tensor, factorisation: Factorisation, groups: int, shape: Shape) -> Tensor:
    """Return the weight of `shape` (n, c, kh, kw) of the one convolution equal to those of weights `first` and
    `second` in sequence."""
    if factorisation == "vertical_first":
        return torch.einsum("nrw,rch->nchw", second[:, :, 0], first[..., 0])
    if factorisation == "horizontal_first":
        return torch.einsum("nrh,rcw->nchw", second[..., 0], first[:, :, 0])
    if factorisation == "in_group":
        left, right = second.reshape(shape[0], groups, -1), first.unflatten(0, (groups, -1))
        return torch.einsum("ngr,grchw->ngchw", left, right).reshape(shape)
    left, right = first.reshape(groups, -1, shape[1]), second.unflatten(0, (groups, -1))
    return torch.einsum("grc,gnrhw->gnchw", left, right).reshape(shape)


def check(dense: nn.Module, factorisation: str, groups: int = 1, rank: int = 1) -> nn.Conv2d | nn.Linear:
    """Return `dense`. Raise UserError for anything but an ungrouped Conv2d or, in_group, a Linear; and for a
    factorisation, a number of groups or a rank that does not exist."""
    if factorisation not in FACTORISATIONS:
        raise UserError(f"no factorisation {factorisation!r}: {nearest(factorisation, FACTORISATIONS)}")
    grouped = isinstance(dense, nn.Conv2d) and dense.groups != 1
    if grouped or not isinstance(dense, nn.Conv2d | nn.Linear):
        extra = f" with groups={dense.groups}" if grouped else ""
        raise UserError(f"only a Conv2d with groups=1 or a Linear is factorised, not a {type(dense).__name__}{extra}")
    if isinstance(dense, nn.Linear) and factorisation != "in_group":
        raise UserError(f"a Linear is factorised as in_group only, not as {factorisation}")
    shape = kernel_shape(dense)
    if groups not in (allowed := group_counts(shape, factorisation)):
        raise UserError(f"groups={groups} is none of {allowed}, those of {factorisation} for a weight of {shape}")
    highest = full_rank(shape, factorisation, groups)
    if not 1 <= rank <= highest:
        within = f"{factorisation} with groups={groups}"
        raise UserError(f"rank {rank} is not between 1 and {highest}, the full rank of {within}")
    return dense


def plain_pair(dense: nn.Module, factorisation: Factorisation, groups: int, rank: int, bias: bool) -> nn.Sequential:
    """Return the two layers of `dense` factorised, on the meta device. Only the second can have a bias, since one
    before the padding would change the borders. Raise UserError where `check` does."""
    checked = check(dense, factorisation, groups, rank)
    if isinstance(checked, nn.Linear):
        return _linear_pair(checked, groups, rank, bias)
    n, c = checked.weight.shape[:2]
    common: dict[str, Any] = {"padding_mode": checked.padding_mode, "device": "meta"}
    if factorisation in ("vertical_first", "horizontal_first"):
        vertical, horizontal = _along(checked, 0), _along(checked, 1)
        first, second = (vertical, horizontal) if factorisation == "vertical_first" else (horizontal, vertical)
        return nn.Sequential(
            nn.Conv2d(c, rank, bias=False, **first, **common), nn.Conv2d(rank, n, bias=bias, **second, **common)
        )
    common |= {name: getattr(checked, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    width = groups * rank
    if factorisation == "in_group":
        reduce = nn.Conv2d(c, width, groups=groups, bias=False, **common)
        return nn.Sequential(reduce, nn.Conv2d(width, n, 1, bias=bias, device="meta"))
    reduce = nn.Conv2d(c, width, 1, bias=False, device="meta")
    return nn.Sequential(reduce, nn.Conv2d(width, n, groups=groups, bias=bias, **common))


def weighted(body: nn.Sequential) -> tuple[nn.Conv2d | nn.Linear, nn.Conv2d | nn.Linear]:
    """Return the two layers of a `plain_pair` that have weights, in the order in which they are called."""
    first, second = (layer for layer in body if isinstance(layer, nn.Conv2d | nn.Linear))
    return first, second


def pair_macs(body: nn.Sequential, input_shape: Shape) -> int:
    """Return the multiply-adds of a `plain_pair` for one input, (channels, height, width) or (..., features)."""
    if not isinstance(body[-1], nn.Conv2d):
        return pair_size(body) * math.prod(input_shape[:-1])
    total, size = 0, tuple(input_shape[1:])
    for conv in weighted(body):
        assert isinstance(conv, nn.Conv2d)
        size = output_size(conv, *size)
        total += conv.weight.numel() * math.prod(size)
    return total


def pair_size(body: nn.Sequential) -> int:
    """Return the number of weights of a `plain_pair`."""
    return sum(layer.weight.numel() for layer in weighted(body))


def _along(conv: nn.Conv2d, axis: int) -> dict[str, Any]:
    """Return the settings of `conv` along `axis` (0: height, 1: width), and of a 1 x 1 convolution along the other."""
    named = ("kernel_size", "stride", "dilation", "padding")
    values = {name: getattr(conv, name) for name in named}
    plain = {"padding": 0} | dict.fromkeys(("kernel_size", "stride", "dilation"), 1)
    return {
        name: value if isinstance(value, str) else tuple(value[a] if a == axis else plain[name] for a in (0, 1))
        for name, value in values.items()
    }


def _linear_pair(dense: nn.Linear, groups: int, rank: int, bias: bool) -> nn.Sequential:
    c, n = dense.in_features, dense.out_features
    second = nn.Linear(groups * rank, n, bias=bias, device="meta")
    if groups == 1:
        return nn.Sequential(nn.Linear(c, rank, bias=False, device="meta"), second)
    # the names that the two have in stored states
    return nn.Sequential(OrderedDict({"1": GroupedLinear(c, groups * rank, groups, device="meta"), "3": second}))
