"""Multiply-adds that a network executes, including those by zeros, counted per operator: for exported programs, which
have no layer modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from paredown.cost.operators import ProductCounter
from paredown.cost.products import Product

WEIGHTS = {"convolution": 1}  # position of the weight among the arguments
FACTORS = {"mm": (0, 1), "addmm": (1, 2)}  # positions of two matrices, of which either may be a weight


class _Counter(ProductCounter):
    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.weights = {weight.data_ptr() for weight in network.parameters()}
        self.macs = self.active = 0

    def found(self, product: Product, args: Any) -> None:
        """Add the product: all of it, and the part by weights that are not zero."""
        weight = self._weight(product.operator, args)
        if weight is None:
            macs, active = product.macs, product.macs
        elif weight.layout is torch.strided:
            macs = product.macs
            active = macs * int(weight.count_nonzero()) // max(1, weight.numel())
        else:  # only the values that are stored
            columns = args[FACTORS[product.operator][1]].shape[1]
            stored = weight.values()
            macs, active = stored.numel() * columns, int(stored.count_nonzero()) * columns
        self.macs += macs
        self.active += active

    def _weight(self, operator: str, args: Any) -> Tensor | None:
        """Return the factor that is a weight: the first one if it is sparse or a parameter, else the second."""
        if operator in WEIGHTS:
            return args[WEIGHTS[operator]]
        if operator not in FACTORS:
            return None
        left, right = (args[index] for index in FACTORS[operator])
        first = left.layout is not torch.strided or left.data_ptr() in self.weights
        return left if first else right


def executed(network: nn.Module, image: Tensor) -> tuple[int, int]:
    """Count the multiply-adds of `network` on `image` (1, C, H, W): all executed ones, and those by non-zero weights.

    Raise CostError for an operator that neither counter knows and that is not known to be free of multiply-adds.
    """
    counter = _Counter(network)
    with torch.inference_mode(False), torch.no_grad(), counter.watch():
        network(image)
    return counter.macs, counter.active
