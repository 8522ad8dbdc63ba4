"""The kind `factored`: a convolution whose filters have a factor each, which a training drives to 0 or 1 (CNN-FCF)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paredown.core.errors import UserError
from paredown.layers.around import AroundConv2d
from paredown.layers.geometry import settings

RHO = 0.01  # the penalty that a selection begins with


class FactoredConv2d(AroundConv2d):
    """The convolution `conv`, of one group, whose filters are multiplied by the `factors` (n,), which are folded into
    its weights.

    `box` and `sphere` (n,) are the dual variables of the two sets whose intersection is {0, 1}^n, and `penalty` the
    weight of both: what an alternating selection remembers between its steps.
    """

    box: Tensor
    sphere: Tensor
    penalty: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.factors = nn.Parameter(conv.weight.new_ones(conv.out_channels))
        self.register_buffer("box", torch.zeros_like(self.factors.detach()))
        self.register_buffer("sphere", torch.zeros_like(self.factors.detach()))
        self.register_buffer("penalty", self.factors.new_tensor(RHO, requires_grad=False))
        self.train(conv.training)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, M, H, W) to (B, n, H', W')."""
        return self.conv._conv_forward(x, self.weight(), self.bias())

    def weight(self) -> Tensor:
        """Compute the weight that the layer uses, (n, M, K, K)."""
        return self.factors[:, None, None, None] * self.conv.weight

    def bias(self) -> Tensor | None:
        """Compute the bias that the layer uses, (n,)."""
        return None if self.conv.bias is None else self.factors * self.conv.bias

    def deployed(self) -> nn.Conv2d:
        """Return the plain convolution with the factors in its weight."""
        plain = nn.Conv2d(**settings(self.conv), device="meta")
        plain.weight = nn.Parameter(self.weight().detach())
        bias = self.bias()
        plain.bias = None if bias is None else nn.Parameter(bias.detach())
        return plain.train(self.training)


def build(dense: nn.Module) -> FactoredConv2d:
    """Build the kind `factored`, all factors 1. Raise UserError for a layer that is no convolution of one group."""
    if not isinstance(dense, nn.Conv2d) or dense.groups > 1:
        raise UserError(f"kind 'factored' replaces a convolution of one group, not a {type(dense).__name__}")
    return FactoredConv2d(dense)


def to_box(values: Tensor, total: int) -> Tensor:
    """Project `values` (n,) onto {0 <= z <= 1, sum z = `total`}: clip(values - t, 0, 1), t between two of the points
    where that is not smooth, on which the sum is linear."""
    points = torch.cat([values, values - 1]).sort().values  # the sum falls from n to 0 over these
    sums = (values[None] - points[:, None]).clamp(0, 1).sum(1)
    at = int((sums >= total).sum().clamp(1, len(points) - 1)) - 1
    fall = sums[at] - sums[at + 1]
    share = (sums[at] - total) / fall if fall > 0 else torch.zeros_like(fall)
    return (values - (points[at] + share * (points[at + 1] - points[at]))).clamp(0, 1)


def to_sphere(values: Tensor) -> Tensor:
    """Project `values` (n,) onto the sphere around 1/2 of radius sqrt(n) / 2, which passes through {0, 1}^n; 1/2
    itself to 1."""
    away = values - 0.5
    norm = away.norm()
    away, norm = (torch.ones_like(away), away.new_tensor(len(away) ** 0.5)) if norm == 0 else (away, norm)
    return 0.5 + len(values) ** 0.5 / 2 * away / norm
