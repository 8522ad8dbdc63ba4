"""Description length of a network with shared and zero weights, and the bound on its test error
(Neyshabur 2020, arXiv 2007.13657, Theorem 2)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from paredown.core.errors import UserError, nearest
from paredown.cost.tracing import Shape, calls
from paredown.layers.masked import maskable

Units = Literal["mixed", "bits", "nats"]


@dataclass(frozen=True)
class Description:
    """A network as weights on the `edges` (n) of its fully connected equivalent: `nonzeros` (N0) of them are not zero,
    and they share `values` (k) distinct parameters, zero among them if any edge is zero."""

    edges: int
    values: int
    nonzeros: int

    def bits(self, bits: int = 16) -> float:
        """Compute k b + N0 log2(k n) + 2 log2 n: the parameters at `bits` (b) each, and their assignment to edges."""
        n, k = self.edges, self.values
        return k * bits + self.nonzeros * math.log2(k * n) + 2 * math.log2(n)

    def gap(self, samples: int, bits: int = 16, delta: float = 0.05, units: Units = "mixed") -> float:
        """Compute the bound on test error minus training error (both 0 to 1), valid with probability 1 - `delta` over
        the `samples`; above 1 it is vacuous.

        `units`: the paper leaves the base of the logarithms open. Description length in bits with the confidence term
        in nats (mixed), all in bits, or all in nats, the tightest. Raise UserError for other units.
        """
        length, confidence = self.bits(bits), math.log(2 * self.edges / delta)
        sums = {
            "mixed": length + confidence,
            "bits": length + confidence / math.log(2),
            "nats": length * math.log(2) + confidence,
        }
        if units not in sums:
            raise UserError(f"no units {units!r}: {nearest(units, sums)}")
        return math.sqrt(sums[units] / (2 * samples))


@torch.no_grad()
def describe(model: nn.Module, input_shape: Shape) -> Description:
    """Count the quantities of Theorem 2 in the convolutions, linear and locally connected layers of `model` (no bias,
    no batch norm) on one image of `input_shape`. Each stored non-zero weight counts as a distinct value."""
    edges = values = nonzeros = 0
    for call in calls(model, maskable(model), input_shape):
        layer: Any = call.module
        edges += math.prod(call.input_shape) * math.prod(call.output_shape)
        values += int(layer.weight.count_nonzero())
        nonzeros += _connections(layer, call.input_shape)
    return Description(edges, values + (nonzeros < edges), nonzeros)


def _connections(layer: nn.Module, input_shape: Shape) -> int:
    """Count the non-zero edges: the sum of the outputs for an input of ones and a copy with non-zero weights set to
    1."""
    twin: Any = copy.deepcopy(layer).double().cpu()
    twin.weight.copy_(twin.weight != 0)
    if getattr(twin, "bias", None) is not None:
        twin.bias.zero_()
    return round(float(twin(torch.ones(1, *input_shape, dtype=torch.float64)).sum()))
