"""A convolution as U diag(|s|) V, trained in this form and shipped as two plain convolutions (Yang et al. 2020,
"Learning Low-rank Deep Neural Networks via Singular Vector Orthogonality Regularization", arXiv 2004.09031)."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from paredown.blueprint import CompressedLayer
from paredown.errors import UserError
from paredown.layers._factors import Form, check, full_rank, kernel, matrix, pair_weights, plain_pair
from paredown.layers.conv_pair import pair_macs

__all__ = ["Form", "LowRankConv2d", "build", "decompose", "energy_rank", "full_rank", "matrix"]


class LowRankConv2d(CompressedLayer):
    """The convolution whose matrix (`_factors.matrix`) is U (rows, r) diag(|s|) V (r, columns); s (r,) may change sign.

    It starts as the released code does from scratch: U and V Kaiming-normal (fan in), s standard normal.
    """

    def __init__(self, dense: nn.Conv2d, form: Form, rank: int) -> None:
        super().__init__()
        # in tuples, so that these hold settings and no weights of this module
        self.dense = (copy.deepcopy(dense).to("meta"),)
        self.plain = plain_pair(dense, form, rank, dense.bias is not None)
        self.form, self.shape = form, tuple(dense.weight.shape)
        rows, columns = matrix(dense.weight.detach(), form).shape
        new = dense.weight.detach().new_empty
        self.U = nn.Parameter(nn.init.kaiming_normal_(new(rows, rank)))
        self.s = nn.Parameter(nn.init.normal_(new(rank)))
        self.V = nn.Parameter(nn.init.kaiming_normal_(new(rank, columns)))
        self.bias = None if dense.bias is None else nn.Parameter(dense.bias.detach().clone())
        self.train(dense.training)

    @property
    def rank(self) -> int:
        """How many singular values the layer has."""
        return len(self.s)

    def factors(self) -> tuple[Tensor, Tensor]:
        """The weights of the two convolutions, from U sqrt|s| and sqrt|s| V."""
        root = _root(self.s)
        return pair_weights(self.U * root, root[:, None] * self.V, self.form, self.shape)

    def effective_weight(self) -> Tensor:
        """The weight (n, c, kh, kw) of the one convolution that computes the same."""
        return kernel(self.U * self.s.abs() @ self.V, self.form, self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) to (B, n, H', W')."""
        (first, second), (left, right) = self.plain, self.factors()
        return second._conv_forward(first._conv_forward(x, left, None), right, self.bias)

    @torch.no_grad()
    def become(self, weight: Tensor) -> None:
        """Take over the factors of the best approximation of `weight` (n, c, kh, kw) at this rank (its SVD)."""
        left, s, right = torch.linalg.svd(matrix(weight.double(), self.form), full_matrices=False)
        for own, new in ((self.U, left[:, : self.rank]), (self.s, s[: self.rank]), (self.V, right[: self.rank])):
            own.copy_(new)

    @torch.no_grad()
    def truncated(self, rank: int) -> LowRankConv2d:
        """A layer with the `rank` largest of the singular values and their vectors, in their order; all else stays."""
        keep = self.s.abs().argsort(descending=True, stable=True)[:rank].sort().values
        smaller = LowRankConv2d(self.plain_dense(), self.form, rank)
        for name, values in (("U", self.U[:, keep]), ("s", self.s[keep]), ("V", self.V[keep])):
            getattr(smaller, name).data = values.clone()
        return smaller

    def plain_dense(self) -> nn.Conv2d:
        """The one convolution that computes the same."""
        conv = copy.deepcopy(self.dense[0])
        conv.weight = nn.Parameter(self.effective_weight().detach().clone())
        conv.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return conv.train(self.training)

    def active_weights(self) -> int:
        """Weights of the two convolutions; s is folded into them."""
        return self.U.numel() + self.V.numel()

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Multiply-adds of the two convolutions for one input (channels, height, width)."""
        return pair_macs(*self.plain, input_shape)

    def deployed(self) -> nn.Sequential:
        """Two plain convolutions."""
        pair = plain_pair(self.dense[0], self.form, self.rank, self.bias is not None)
        for conv, weight in zip(pair, self.factors(), strict=True):
            conv.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
        pair[1].bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return nn.Sequential(*pair).train(self.training)

    def extra_repr(self) -> str:
        """The dense shape, the form and the rank."""
        return f"{self.shape}, form={self.form}, rank={self.rank}"


def build(dense: nn.Module, form: Form, rank: int) -> LowRankConv2d:
    """A factorised layer in the place of `dense`, from scratch. Raises UserError where `_factors.check` does."""
    check(dense, form, rank)
    assert isinstance(dense, nn.Conv2d)
    return LowRankConv2d(dense, form, rank)


def decompose(conv: nn.Module, form: Form, rank: int | None = None) -> LowRankConv2d:
    """`conv` in factorised form by its SVD: equal to it at full rank (None), else its best approximation of `rank`."""
    check(conv, form, rank)
    assert isinstance(conv, nn.Conv2d)
    layer = LowRankConv2d(conv, form, rank or full_rank(conv, form))
    layer.become(conv.weight.detach())
    return layer


def energy_rank(s: Tensor, energy: float) -> int:
    """How many of the singular values `s` (r,), in any order and of any sign, remain when at most the fraction
    `energy` of the sum of their squares is removed; at least 1. Raises UserError for an energy outside [0, 1)."""
    if not 0 <= energy < 1:
        raise UserError(f"energy={energy:g} is not in [0, 1): it is the fraction of squared singular values removed")
    return 1 + int((kept_energy(s) < 1 - energy).sum())


def kept_energy(s: Tensor) -> Tensor:
    """The share of the sum of squares that the 1, 2, ... r largest of `s` (r,) hold, in float64: in float32 a sum
    can end below 1 - 2e-8. All ones where every s is 0."""
    kept = s.detach().double().square().sort(descending=True).values.cumsum(0)
    return kept / kept[-1] if kept[-1] > 0 else torch.ones_like(kept)


def _root(s: Tensor) -> Tensor:
    """sqrt|s| with gradient 0, not infinity times 0, where s is 0."""
    size = s.abs()
    return torch.where(size > 0, torch.where(size > 0, size, 1).sqrt(), 0)
