"""bf16 on a CPU without instructions for it: products in fp32 of factors that are rounded to bf16."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from paredown.training.machine import has_bf16_units

PRODUCTS = frozenset({torch.conv2d, functional.linear, torch.bmm})


def bf16_products(device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which autocast to bf16 on `device` costs about what fp32 does where `device` is a CPU without
    bf16 instructions, and which changes nothing elsewhere."""
    return nullcontext() if device.type != "cpu" or has_bf16_units(device) else RoundedProducts()


class RoundedProducts(TorchFunctionMode):
    """Compute what autocast on the CPU would compute in bf16 as bf16 units do: factors, results and gradients are
    rounded to bf16, sums are in fp32. Torch rounds within its loops there, which takes 2 to 10 times as long."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call `func`, with the arguments rounded where it is one of PRODUCTS under autocast to bf16."""
        kwargs = kwargs or {}
        if func not in PRODUCTS or not _applies([*args, *kwargs.values()]):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_rounded, args), **{name: _rounded(one) for name, one in kwargs.items()}).bfloat16()


def _applies(arguments: Iterable[Any]) -> bool:
    """Tell whether autocast to bf16 is on and would cast these: it leaves fp64 alone."""
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    return all(one.dtype != torch.float64 for one in arguments if isinstance(one, torch.Tensor))


def _rounded(argument: Any) -> Any:
    return argument.bfloat16().float() if isinstance(argument, torch.Tensor) else argument
