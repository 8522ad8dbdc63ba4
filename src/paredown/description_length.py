"""How many bits say which weights a network shares and which are zero, and the bound on its test error that follows
(Neyshabur 2020, arXiv 2007.13657, Theorem 2)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from paredown.cost.tracing import Shape, calls
from paredown.errors import UserError, nearest
from paredown.layers.masked import maskable

Units = Literal["mixed", "bits", "nats"]


@dataclass(frozen=True)
class Description:
    """A network as a weight on each of the `edges` (n) of its fully connected form: `nonzeros` (N0) of them are not
    zero, and `values` (k) parameters are assigned to them; the value zero is one of these where an edge is zero."""

    edges: int
    values: int
    nonzeros: int

    def bits(self, bits: int = 16) -> float:
        """k b + N0 log2(k n) + 2 log2 n: the parameters of `bits` each, and which edge has which."""
        n, k = self.edges, self.values
        return k * bits + self.nonzeros * math.log2(k * n) + 2 * math.log2(n)

    def gap(self, samples: int, bits: int = 16, delta: float = 0.05, units: Units = "mixed") -> float:
        """How far, with probability 1 - `delta` over the `samples`, the test error (0 to 1) can be above the training
        error. Above 1 it says nothing.

        `units`: the paper leaves the logarithms' base open. Description lengths in bits and a natural confidence
        term (mixed), all in bits, or all in nats, the tightest. Raises UserError for other units.
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
def describe(network: nn.Module, input_shape: Shape) -> Description:
    """What Theorem 2 counts of the convolutions, linear and locally connected layers of `network` (no bias, no batch
    norm) on one image of `input_shape`. Every stored weight that is not zero is a value of its own."""
    edges = values = nonzeros = 0
    for call in calls(network, maskable(network), input_shape):
        layer: Any = call.module
        edges += math.prod(call.input_shape) * math.prod(call.output_shape)
        values += int(layer.weight.count_nonzero())
        nonzeros += _connections(layer, call.input_shape)
    return Description(edges, values + (nonzeros < edges), nonzeros)


def _connections(layer: nn.Module, input_shape: Shape) -> int:
    """The edges with a weight: what ones through a twin with ones for its non-zero weights sum to."""
    twin: Any = copy.deepcopy(layer).double().cpu()
    twin.weight.copy_(twin.weight != 0)
    if getattr(twin, "bias", None) is not None:
        twin.bias.zero_()
    return round(float(twin(torch.ones(1, *input_shape, dtype=torch.float64)).sum()))
