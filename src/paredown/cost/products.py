"""Multiply-adds of a matrix product, wherever it stands in a network: in closed form and by torch's formulas."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry

ClosedForm = Callable[[Sequence[Any], Any], int]  # of an operator's positional arguments and its result


def _factors(left: int, right: int) -> ClosedForm:
    """Return the closed form of (..., m, k) times (..., k, n), given the positions of the factors."""
    return lambda arguments, _: arguments[left].numel() * arguments[right].shape[-1]


def _vector(matrix: int) -> ClosedForm:
    """Return the closed form of a matrix or vector, given its position, times a vector."""
    return lambda arguments, _: arguments[matrix].numel()


def _convolution(arguments: Sequence[Any], result: Any) -> int:
    x, weight, transposed = arguments[0], arguments[1], len(arguments) > 6 and arguments[6]
    positions = (x if transposed else result).shape[2:]  # each weight is used once at each of them
    return len(x) * weight.numel() * math.prod(positions)


def _attention(arguments: Sequence[Any], _: Any) -> int:
    query, key, value = arguments[:3]
    scores = math.prod(query.shape[:-1]) * key.shape[-2]
    return scores * (query.shape[-1] + value.shape[-1])


CLOSED_FORMS: Mapping[str, ClosedForm] = {
    "mm": _factors(0, 1),
    "bmm": _factors(0, 1),
    "addmm": _factors(1, 2),
    "baddbmm": _factors(1, 2),
    "addbmm": _factors(1, 2),
    "mv": _vector(0),
    "dot": _vector(0),
    "vdot": _vector(0),
    "addmv": _vector(1),
    "convolution": _convolution,
    "_scaled_dot_product_flash_attention": _attention,
    "_scaled_dot_product_efficient_attention": _attention,
    "_scaled_dot_product_cudnn_attention": _attention,
    "_scaled_dot_product_flash_attention_for_cpu": _attention,
}


@dataclass(frozen=True)
class Product:
    """A matrix product in the module `where` ("": the network): its multiply-adds in closed form and by torch's
    formula; None of a counter that does not know the operator."""

    where: str
    operator: str
    closed_form: int | None
    torchs: int | None

    @property
    def macs(self) -> int:
        """Torch's number, or where torch has no formula that of the closed form."""
        found = self.closed_form if self.torchs is None else self.torchs
        assert found is not None  # `known`
        return found


def name_of(packet: Any) -> str:
    """Return the aten name of an operator without the final "_" of in-place variants."""
    name: str = packet._qualified_op_name.removeprefix("aten::")
    return name.removesuffix("_")


def known(packet: Any) -> bool:
    """Return whether at least one counter knows the operator as a matrix product."""
    return name_of(packet) in CLOSED_FORMS or packet in flop_registry


def product(where: str, packet: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any) -> Product:
    """Count one call of a `known` operator, which gave `result`."""
    name = name_of(packet)
    closed, formula = CLOSED_FORMS.get(name), flop_registry.get(getattr(torch.ops.aten, name, packet))
    torchs = None if formula is None else formula(*args, **kwargs, out_val=result) // 2
    return Product(where, name, None if closed is None else closed(args, result), torchs)
