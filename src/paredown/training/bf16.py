"""bf16 on a CPU without instructions for it: products in fp32 of factors that are rounded to bf16."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from paredown.training.machine import has_bf16_units

PRODUCTS = ("conv2d", "conv2d.padding", "linear", "matmul", "mm", "bmm", "addmm", "baddbmm")


@contextmanager
def bf16_products(device: torch.device) -> Iterator[None]:
    """Let autocast on a CPU without bf16 instructions compute PRODUCTS as such instructions do, from factors rounded to
    bf16, with sums in fp32 and results and gradients rounded to bf16. Torch rounds within its loops there, and takes
    longer than in fp32 (`benchmarks/bf16.py`). What is kept for the backward pass takes the memory of fp32.

    Nothing changes on other devices, outside of autocast, or for what autocast leaves alone. Not to be nested.
    """
    if device.type != "cpu" or has_bf16_units(device):
        yield
        return
    with torch.library._scoped_library("aten", "IMPL") as library:
        _register(library)
        yield


def _register(library: Library) -> None:
    for name in PRODUCTS:
        operator, _, overload = name.partition(".")
        product = getattr(getattr(torch.ops.aten, operator), overload or "default")
        library.impl(name, partial(_rounded, product), "AutocastCPU")


def _rounded(product: Callable[..., Tensor], *arguments: Any, **named: Any) -> Tensor:
    """Compute `product` under autocast, whose dtype may be fp16: then as torch does."""
    dtype = torch.get_autocast_dtype("cpu")
    wide = torch.float32 if dtype == torch.bfloat16 else dtype

    def rounded(one: Any) -> Any:
        return one.to(dtype).to(wide) if _is_cast(one) else one

    with torch.autocast("cpu", enabled=False):
        result = product(*map(rounded, arguments), **{name: rounded(one) for name, one in named.items()})
        return result.to(dtype) if any(map(_is_cast, (*arguments, *named.values()))) else result


def _is_cast(argument: Any) -> bool:
    """Tell whether autocast on the CPU casts `argument`."""
    if not isinstance(argument, Tensor) or argument.device.type != "cpu":
        return False
    return argument.is_floating_point() and argument.dtype != torch.float64
