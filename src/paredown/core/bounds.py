"""A bound on the networks that a file asks for: damaged numbers must not fill the memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from paredown.core.errors import UserError

# what any file may ask for, and what it may for each tensor and element that it holds: a compressed network is built
# from its dense one, which may be a hundred times as large
TENSORS, TENSORS_EACH = 5_000, 100
ELEMENTS, ELEMENTS_EACH = 50_000_000, 200


@contextmanager
def bounded(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Raise UserError where the body builds modules far larger than `weights`, before their tensors are filled."""
    most_tensors = TENSORS + TENSORS_EACH * len(weights)
    most_elements = ELEMENTS + ELEMENTS_EACH * sum(tensor.numel() for tensor in weights.values())
    built = {"tensors": 0, "elements": 0}

    def count(_: Any, name: str, tensor: Any) -> None:
        if not isinstance(tensor, Tensor):
            return
        built["tensors"] += 1
        built["elements"] += tensor.numel()
        if built["tensors"] > most_tensors or built["elements"] > most_elements:
            raise UserError(
                f"it asks for a network of more than {built['elements']:,} values, and holds {len(weights)} tensors: "
                f"its numbers are wrong"
            )

    with register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count):
        yield
