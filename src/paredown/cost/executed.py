"""Multiply-adds that a network really carries out, zeros too, counted operator by operator: for files and programs,
whose layers are no modules any more."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry

from paredown.cost.operators import CostError, OperatorCheck

CONVOLUTION = torch.ops.aten.convolution
PRODUCTS = {torch.ops.aten.mm: 0, torch.ops.aten.addmm: 1}  # where the first factor stands


class _Counter(OperatorCheck):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.weights = {weight.data_ptr() for weight in network.parameters()}
        self.macs = self.active = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_dispatch__(func, types, args, kwargs)
        packet = func._overloadpacket
        if packet is CONVOLUTION:  # each weight meets every position of its output map once
            self._add(args[1], len(result) * math.prod(result.shape[2:]))
        elif packet in PRODUCTS:
            left, right = args[PRODUCTS[packet] : PRODUCTS[packet] + 2]
            if left.layout is not torch.strided:
                self._add(left.values(), right.shape[1])
            elif left.data_ptr() in self.weights:
                self._add(left, right.shape[1])
            else:
                self._add(right, left.shape[0])
        elif packet in flop_registry:
            raise CostError(f"multiply-adds of {packet._qualified_op_name} are not counted here")
        return result

    def _add(self, weight: Tensor, times: int) -> None:
        self.macs += weight.numel() * times
        self.active += int(weight.count_nonzero()) * times


def executed(network: nn.Module, image: Tensor) -> tuple[int, int]:
    """Multiply-adds of `network` on `image` (1, C, H, W): all that are carried out, and those by weights that are not
    zero. CostError for an operator that is neither counted nor known to be free."""
    counter = _Counter(network)
    with torch.inference_mode(False), torch.no_grad(), counter:
        network(image)
    return counter.macs, counter.active
