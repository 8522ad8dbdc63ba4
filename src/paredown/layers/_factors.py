"""The two ways to write a convolution as two: its weight as one matrix, and the pair of convolutions of given rank.

Channel: (n, c * kh * kw), a kh x kw convolution to r channels, then 1 x 1. Spatial: (c * kh, n * kw), a kh x 1
convolution to r channels, then 1 x kw (SVD training's code; Zhang et al. 2016 and Jaderberg et al. 2014).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from paredown.errors import UserError

Form = Literal["channel", "spatial"]


def matrix(weight: Tensor, form: Form) -> Tensor:
    """`weight` (n, c, kh, kw) as the matrix that `form` factorises."""
    return weight.flatten(1) if form == "channel" else weight.permute(1, 2, 0, 3).flatten(2).flatten(0, 1)


def kernel(product: Tensor, form: Form, shape: tuple[int, ...]) -> Tensor:
    """The inverse of `matrix`: a weight of `shape` (n, c, kh, kw)."""
    n, c, kh, kw = shape
    return product.reshape(shape) if form == "channel" else product.reshape(c, kh, n, kw).permute(2, 0, 1, 3)


def full_rank(conv: nn.Conv2d, form: Form) -> int:
    """The smaller side of the matrix of `conv`."""
    n, c, kh, kw = conv.weight.shape
    return min(n, c * kh * kw) if form == "channel" else min(c * kh, n * kw)


def plain_pair(conv: nn.Conv2d, form: Form, rank: int, bias: bool) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Two convolutions, on the meta device, of the shape of `conv` factorised to `rank`; a bias can only be the
    second's, since one before the padding would change the borders. Raises UserError for what has no such form."""
    check(conv, form, rank)
    n, c, kh, kw = conv.weight.shape
    (sh, sw), (dh, dw) = _two(conv.stride), _two(conv.dilation)
    common = {"padding_mode": conv.padding_mode, "device": "meta"}
    if form == "channel":
        settings = {"stride": conv.stride, "padding": conv.padding, "dilation": conv.dilation}
        first = nn.Conv2d(c, rank, (kh, kw), bias=False, **settings, **common)  # type: ignore[arg-type]
        return first, nn.Conv2d(rank, n, 1, bias=bias, device="meta")
    down, across = (conv.padding,) * 2 if isinstance(conv.padding, str) else _apart(_two(conv.padding))
    first = nn.Conv2d(c, rank, (kh, 1), (sh, 1), down, (dh, 1), bias=False, **common)  # type: ignore[arg-type]
    return first, nn.Conv2d(rank, n, (1, kw), (1, sw), across, (1, dw), bias=bias, **common)  # type: ignore[arg-type]


def pair_weights(left: Tensor, right: Tensor, form: Form, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The weights of the pair whose matrix is `left` (rows, r) times `right` (r, columns), for a dense weight of
    `shape` (n, c, kh, kw). In channel form the right factor comes first, in spatial form the left one."""
    n, c, kh, kw = shape
    rank = left.shape[1]
    if form == "channel":
        return right.reshape(rank, c, kh, kw), left.reshape(n, rank, 1, 1)
    return left.reshape(c, kh, rank).permute(2, 0, 1)[..., None], right.reshape(rank, n, kw).permute(1, 0, 2)[
        :, :, None
    ]


def check(conv: nn.Module, form: str, rank: int | None) -> None:
    """UserError for anything but an ungrouped Conv2d, another form, or a rank outside [1, full rank]."""
    if form not in ("channel", "spatial"):
        raise UserError(f"form {form!r} is neither channel nor spatial")
    if not isinstance(conv, nn.Conv2d) or conv.groups != 1:
        groups = f" with groups={conv.groups}" if isinstance(conv, nn.Conv2d) else ""
        raise UserError(f"only a Conv2d with groups=1 is factorised, not a {type(conv).__name__}{groups}")
    highest = full_rank(conv, form)  # type: ignore[arg-type]
    if rank is not None and not 1 <= rank <= highest:
        raise UserError(f"rank {rank} is not between 1 and {highest}, the full rank in {form} form")


def _two(value: object) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)


def _apart(padding: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    return (padding[0], 0), (0, padding[1])
