"""Tensors without their zeros come back bit for bit, whatever is in them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paredown.core.errors import UserError
from paredown.store.packing import LIVE, pack, packed_bytes, unpack


@given(
    shape=st.lists(st.integers(0, 5), max_size=4),
    density=st.sampled_from([0.0, 0.1, 0.9, 1.0]),
    kind=st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]),
)
def test_any_tensor_comes_back(shape: list[int], density: float, kind: torch.dtype) -> None:
    tensor = (torch.randint(1, 9, shape) * (torch.rand(shape) < density)).to(kind)
    packed, shapes = pack({"a": tensor})
    (back,) = unpack(packed, shapes, "here").values()
    assert back.dtype == kind and torch.equal(back, tensor)
    assert sum(part.nbytes for part in packed.values()) <= tensor.nbytes


def test_a_sparse_tensor_takes_its_values_and_a_bit_for_each_entry() -> None:
    tensor = torch.zeros(10, 100)
    tensor[3, 5:25] = 7
    packed, shapes = pack({"a": tensor, "b": torch.ones(3)})
    assert {name: part.nbytes for name, part in packed.items()} == {"a": 80, "a" + LIVE: 125, "b": 12}
    assert shapes == {"a": [10, 100]}


def test_parts_that_do_not_fit_are_told() -> None:
    packed, shapes = pack({"a": torch.zeros(100)})
    for broken, told in (
        ({"a": packed["a"]}, "has no tensor 'a'"),
        (packed | {"a": torch.ones(2)}, "the bits of a fit neither"),
        (packed | {"a" + LIVE: packed["a" + LIVE][:5]}, "the bits of a fit neither"),
    ):
        with pytest.raises(UserError, match=told):
            unpack(broken, shapes, "here")


def test_bytes_are_those_of_the_values_and_a_bit_for_each_place() -> None:
    masked = torch.zeros(10, 10)
    masked[0, :3] = 1.0
    assert packed_bytes({"dense": torch.ones(5), "masked": masked}) == 5 * 4 + 3 * 4 + 13  # 100 bits
