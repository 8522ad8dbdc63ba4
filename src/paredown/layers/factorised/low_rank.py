"""The kind `low_rank`: a convolution trained as U diag(|s|) V and deployed as two plain ones (Yang et al. 2020,
"Learning Low-rank Deep Neural Networks via Singular Vector Orthogonality Regularization", arXiv 2004.09031)."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paredown.core.compressed import CompressedLayer
from paredown.core.errors import UserError
from paredown.layers.factorised.forms import (
    Factorisation,
    check,
    full_rank,
    kernel,
    kernel_shape,
    matrices,
    pair_macs,
    pair_weights,
    plain_pair,
)
from paredown.layers.geometry import output_size
from paredown.layers.strided import conv_forward


class LowRankConv2d(CompressedLayer):
    """The convolution whose matrix (`forms.matrices`) is U (rows, r) diag(|s|) V (r, columns); s (r,) may change sign.

    Initialised as the released code does from scratch: U and V Kaiming-normal (fan in), s standard normal.
    """

    def __init__(self, dense: nn.Conv2d, factorisation: Factorisation, rank: int) -> None:
        super().__init__()
        # in tuples, so that these hold settings and no weights of this module
        self.dense = (copy.deepcopy(dense).to("meta"),)
        self.plain = _convs(plain_pair(dense, factorisation, 1, rank, dense.bias is not None))
        self.factorisation: Factorisation = factorisation
        self.shape = tuple(dense.weight.shape)
        _, rows, columns = matrices(dense.weight.detach(), factorisation).shape
        new = dense.weight.detach().new_empty
        self.U = nn.Parameter(nn.init.kaiming_normal_(new(rows, rank)))
        self.s = nn.Parameter(nn.init.normal_(new(rank)))
        self.V = nn.Parameter(nn.init.kaiming_normal_(new(rank, columns)))
        self.bias = None if dense.bias is None else nn.Parameter(dense.bias.detach().clone())
        self.train(dense.training)

    @property
    def rank(self) -> int:
        """The number of singular values."""
        return len(self.s)

    @property
    def full_rank(self) -> int:
        """The smaller side of the matrix."""
        return full_rank(self.shape, self.factorisation)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the weights of the two convolutions, from U sqrt|s| and sqrt|s| V."""
        root = _root(self.s)
        return pair_weights((self.U * root)[None], (root[:, None] * self.V)[None], self.factorisation, self.shape)

    def effective_weight(self) -> Tensor:
        """Return the weight (n, c, kh, kw) of the one convolution that computes the same."""
        return kernel((self.U * self.s.abs() @ self.V)[None], self.factorisation, self.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, c, H, W) to (B, n, H', W'): by the two convolutions; in training by the one of their product where
        that has fewer multiply-adds, the product's included, as at full rank."""
        if self.training and self._product_is_cheaper(x.shape):
            with torch.autocast(x.device.type, enabled=False):  # rounded once, as a dense weight is
                weight = self.effective_weight()
            return conv_forward(self.dense[0], x, weight, self.bias)
        (first, second), (left, right) = self.plain, self.factors()
        return conv_forward(second, conv_forward(first, x, left, None), right, self.bias)

    def _product_is_cheaper(self, shape: torch.Size) -> bool:
        images, image = shape[:-3].numel(), tuple(shape[-3:])
        one = math.prod(self.shape) * math.prod(output_size(self.dense[0], *image[1:]))
        return images * (self.macs(image) - one) > self.U.numel() * self.V.shape[1]

    @torch.no_grad()
    def set_weight_(self, weight: Tensor) -> None:
        """Take over the SVD of the best approximation of `weight` (n, c, kh, kw) at this rank."""
        left, s, right = torch.linalg.svd(matrices(weight.double(), self.factorisation)[0], full_matrices=False)
        self.U.copy_(left[:, : self.rank])
        self.s.copy_(s[: self.rank])
        self.V.copy_(right[: self.rank])

    @torch.no_grad()
    def truncated(self, rank: int) -> LowRankConv2d:
        """Return a layer with the `rank` largest singular values and their vectors, in their order."""
        keep = self.s.abs().argsort(descending=True, stable=True)[:rank].sort().values
        smaller = LowRankConv2d(self.plain_dense(), self.factorisation, rank)
        for name, values in (("U", self.U[:, keep]), ("s", self.s[keep]), ("V", self.V[keep])):
            getattr(smaller, name).data = values.clone()
        return smaller

    def plain_dense(self) -> nn.Conv2d:
        """Return the one convolution that computes the same."""
        conv = copy.deepcopy(self.dense[0])
        conv.weight = nn.Parameter(self.effective_weight().detach().clone())
        conv.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return conv.train(self.training)

    def active_weights(self) -> int:
        """Return the number of weights of the two convolutions; s is folded into them."""
        return self.U.numel() + self.V.numel()

    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Return the multiply-adds of the two convolutions for one input (channels, height, width)."""
        return pair_macs(nn.Sequential(*self.plain), input_shape)

    def budget(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entry of the pair that is deployed, untrained."""
        return {"kind": "pair", "factorisation": self.factorisation, "groups": 1, "rank": self.rank}

    def deployed(self) -> nn.Sequential:
        """Return two plain convolutions."""
        pair = _convs(plain_pair(self.dense[0], self.factorisation, 1, self.rank, self.bias is not None))
        for conv, weight in zip(pair, self.factors(), strict=True):
            conv.weight = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
        pair[1].bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())
        return nn.Sequential(*pair).train(self.training)

    def extra_repr(self) -> str:
        """Return the dense shape, the factorisation and the rank."""
        return f"{self.shape}, {self.factorisation}, rank={self.rank}"


def build(dense: nn.Module, factorisation: Factorisation, rank: int) -> LowRankConv2d:
    """Return an untrained factorised layer for `dense`. Raise UserError for a Linear, and where `forms.check` does."""
    return LowRankConv2d(_checked(dense, factorisation, rank), factorisation, rank)


def decompose(conv: nn.Module, factorisation: Factorisation, rank: int | None = None) -> LowRankConv2d:
    """Return the SVD of `conv`: equal to it at full rank (None), else its best approximation of `rank`."""
    checked = _checked(conv, factorisation, 1 if rank is None else rank)
    layer = LowRankConv2d(checked, factorisation, rank or full_rank(kernel_shape(checked), factorisation))
    layer.set_weight_(checked.weight.detach())
    return layer


def low_rank_layers(module: nn.Module) -> dict[str, LowRankConv2d]:
    """Return the factorised layers of `module` by name."""
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, LowRankConv2d)}


def _checked(dense: nn.Module, factorisation: str, rank: int) -> nn.Conv2d:
    checked = check(dense, factorisation, 1, rank)
    if isinstance(checked, nn.Linear):
        raise UserError("kind 'low_rank' replaces a Conv2d, not a Linear")
    return checked


def _convs(pair: nn.Sequential) -> tuple[nn.Conv2d, nn.Conv2d]:
    first, second = (layer for layer in pair if isinstance(layer, nn.Conv2d))
    return first, second


def _root(s: Tensor) -> Tensor:
    """Compute sqrt|s| with gradient 0, not infinity times 0, where s is 0."""
    size = s.abs()
    return torch.where(size > 0, torch.where(size > 0, size, 1).sqrt(), 0)
