"""SVD-NAS's three ways to write a convolution as two (arXiv 2208.10404): its weight as a batch of matrices, one
a group, and the pair of layers that computes their products. For a weight (n, c, kh, kw) and g groups:

spatial: one (n kh, c kw); 1 x kw to r channels, then kh x 1. in_group: g of (n, c/g kh kw); kh x kw in g groups to g r
channels, then 1 x 1. out_group: g of (c, n/g kh kw); 1 x 1 to g r channels, then kh x kw in g groups.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from paredown.errors import UserError, nearest

Family = Literal["spatial", "in_group", "out_group"]
FAMILIES: tuple[Family, ...] = get_args(Family)
Shape = tuple[int, ...]


def kernel_shape(dense: nn.Conv2d | nn.Linear) -> Shape:
    """The weight's (n, c, kh, kw); a linear layer is a 1 x 1 convolution of one pixel."""
    shape = tuple(dense.weight.shape)
    return shape if len(shape) == 4 else (*shape, 1, 1)


def blocks(weight: Tensor, family: Family, groups: int) -> Tensor:
    """`weight` (n, c, kh, kw) as the matrices (g, rows, columns) that `family` factorises."""
    n, c, kh, kw = weight.shape
    if family == "spatial":
        return weight.transpose(1, 2).reshape(1, n * kh, c * kw)
    if family == "in_group":
        return weight.reshape(n, groups, -1).transpose(0, 1)
    return weight.reshape(groups, n // groups, c, kh * kw).transpose(1, 2).reshape(groups, c, -1)


def unblocked(matrices: Tensor, family: Family, shape: Shape) -> Tensor:
    """The weight of `shape` (n, c, kh, kw) whose `blocks` are `matrices` (g, rows, columns)."""
    n, c, kh, kw = shape
    if family == "spatial":
        return matrices.reshape(n, kh, c, kw).transpose(1, 2)
    if family == "in_group":
        return matrices.transpose(0, 1).reshape(shape)
    groups = len(matrices)
    return matrices.reshape(groups, c, n // groups, kh, kw).transpose(1, 2).reshape(shape)


def truncated(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Left (g, rows, r) and right (g, r, columns) factors of the best approximation of each of `matrices`
    (g, rows, columns), in float64, with the singular values split evenly."""
    left, s, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    root = s[:, :rank].sqrt()
    return left[:, :, :rank] * root[:, None], root[:, :, None] * right[:, :rank]


def pair_weights(left: Tensor, right: Tensor, family: Family, shape: Shape) -> tuple[Tensor, Tensor]:
    """The weights of the two convolutions whose matrices are `left` (g, rows, r) times `right` (g, r, columns), for a
    dense weight of `shape` (n, c, kh, kw)."""
    (n, c, kh, kw), (groups, _, rank) = shape, left.shape
    if family == "spatial":
        return right.reshape(rank, c, 1, kw), left.reshape(n, kh, rank, 1).transpose(1, 2)
    if family == "in_group":
        return right.reshape(-1, c // groups, kh, kw), left.transpose(0, 1).reshape(n, -1, 1, 1)
    second = right.reshape(groups, rank, n // groups, kh, kw).transpose(1, 2)
    return left.transpose(1, 2).reshape(-1, c, 1, 1), second.reshape(n, rank, kh, kw)


def product(first: Tensor, second: Tensor, family: Family, groups: int, shape: Shape) -> Tensor:
    """The weight of `shape` (n, c, kh, kw) of the one convolution that computes what the two of weights `first` and
    `second` do in a row."""
    if family == "spatial":
        return torch.einsum("nrh,rcw->nchw", second[..., 0], first[:, :, 0])
    if family == "in_group":
        left, right = second.reshape(shape[0], groups, -1), first.unflatten(0, (groups, -1))
        return torch.einsum("ngr,grchw->ngchw", left, right).reshape(shape)
    left, right = first.reshape(groups, -1, shape[1]), second.unflatten(0, (groups, -1))
    return torch.einsum("grc,gnrhw->gnchw", left, right).reshape(shape)


def full_rank(shape: Shape, family: Family, groups: int) -> int:
    """The smaller side of a group's matrix, for a dense weight of `shape` (n, c, kh, kw)."""
    n, c, kh, kw = shape
    sides = {
        "spatial": (n * kh, c * kw),
        "in_group": (n, c // groups * kh * kw),
        "out_group": (c, n // groups * kh * kw),
    }
    return min(sides[family])


def group_counts(shape: Shape, family: Family) -> list[int]:
    """The numbers of groups that `family` allows, rising, for a dense weight of `shape` (n, c, kh, kw)."""
    channels = {"spatial": 1, "in_group": shape[1], "out_group": shape[0]}[family]
    return [groups for groups in range(1, channels + 1) if channels % groups == 0]


def check(dense: nn.Module, family: str, groups: int, rank: int) -> None:
    """UserError for anything but an ungrouped Conv2d or, in_group, a Linear; and for a family, a number of groups or a
    rank that there is not."""
    if family not in FAMILIES:
        raise UserError(f"no family {family!r}: {nearest(family, FAMILIES)}")
    grouped = isinstance(dense, nn.Conv2d) and dense.groups != 1
    if grouped or not isinstance(dense, nn.Conv2d | nn.Linear):
        extra = f" with groups={dense.groups}" if grouped else ""
        raise UserError(f"only a Conv2d with groups=1 or a Linear is factorised, not a {type(dense).__name__}{extra}")
    if isinstance(dense, nn.Linear) and family != "in_group":
        raise UserError(f"a Linear is factorised in family in_group alone, not {family}")
    shape = kernel_shape(dense)
    if groups not in (allowed := group_counts(shape, family)):
        raise UserError(f"groups={groups} is none of {allowed}, those of family {family} for a weight of {shape}")
    highest = full_rank(shape, family, groups)
    if not 1 <= rank <= highest:
        raise UserError(f"rank {rank} is not between 1 and {highest}, the full rank of {family} in {groups} groups")


def plain_pair(dense: nn.Module, family: Family, groups: int, rank: int, bias: bool) -> nn.Sequential:
    """Two layers in a row, on the meta device, of the shape of `dense` factorised; a bias can only be the second's,
    since one before the padding would change the borders. Raises UserError where `check` does."""
    check(dense, family, groups, rank)
    if isinstance(dense, nn.Linear):
        return _linear_pair(dense, groups, rank, bias)
    assert isinstance(dense, nn.Conv2d)
    n, c, kh, kw = dense.weight.shape
    common: dict[str, Any] = {"padding_mode": dense.padding_mode, "device": "meta"}
    if family == "spatial":
        (sh, sw), (dh, dw) = dense.stride, dense.dilation
        down, across = (dense.padding,) * 2 if isinstance(dense.padding, str) else _apart(dense.padding)
        first = nn.Conv2d(c, rank, (1, kw), (1, sw), across, (1, dw), bias=False, **common)
        return nn.Sequential(first, nn.Conv2d(rank, n, (kh, 1), (sh, 1), down, (dh, 1), bias=bias, **common))
    common |= {name: getattr(dense, name) for name in ("kernel_size", "stride", "padding", "dilation")}
    if family == "in_group":
        first = nn.Conv2d(c, groups * rank, groups=groups, bias=False, **common)
        return nn.Sequential(first, nn.Conv2d(groups * rank, n, 1, bias=bias, device="meta"))
    first = nn.Conv2d(c, groups * rank, 1, bias=False, device="meta")
    return nn.Sequential(first, nn.Conv2d(groups * rank, n, groups=groups, bias=bias, **common))


def _linear_pair(dense: nn.Linear, groups: int, rank: int, bias: bool) -> nn.Sequential:
    c, n = dense.in_features, dense.out_features
    second = nn.Linear(groups * rank, n, bias=bias, device="meta")
    if groups == 1:
        return nn.Sequential(nn.Linear(c, rank, bias=False, device="meta"), second)
    # torch has no linear layer in groups
    first = nn.Conv2d(c, groups * rank, 1, groups=groups, bias=False, device="meta")
    return nn.Sequential(nn.Unflatten(1, (c, 1, 1)), first, nn.Flatten(1), second)


def _apart(padding: Shape) -> tuple[tuple[int, int], tuple[int, int]]:
    return (padding[0], 0), (0, padding[1])
