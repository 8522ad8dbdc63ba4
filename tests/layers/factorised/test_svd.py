"""The energy of singular values by hand and by brute force."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paredown.core.errors import UserError
from paredown.layers.factorised.svd import energy_rank


@pytest.mark.parametrize(
    ("energy", "rank"), [(0.5, 1), (0.2, 2), (0.05, 2), (0.03, 3), (0.01, 3), (0.005, 4), (1e-3, 4), (0, 4)]
)
def test_energy_of_the_worked_example(energy: float, rank: int) -> None:
    assert energy_rank(torch.tensor([2.0, -10, 1, 5]), energy) == rank


def test_energies_that_float32_could_not_tell() -> None:
    s = torch.cat([torch.ones(4000), torch.full((4000,), 1e-5)])  # the small half holds 1e-10 of the energy
    assert energy_rank(s, 2e-10) == 4000 and energy_rank(s, 0) == 8000
    assert energy_rank(torch.zeros(5), 0.1) == 1 and energy_rank(torch.tensor([3.0, 0, 0]), 0) == 1


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30), st.floats(0, 0.999))
def test_energy_by_brute_force(values: list[float], energy: float) -> None:
    s = torch.tensor(values, dtype=torch.float64)
    squares = sorted((value**2 for value in values), reverse=True)
    kept = energy_rank(s, energy)
    assert 1 <= kept <= len(values)
    removed = sum(squares[kept:])
    assert removed <= energy * sum(squares) + 1e-9 * sum(squares)
    if kept > 1:
        assert sum(squares[kept - 1 :]) > energy * sum(squares) - 1e-9 * sum(squares)


@pytest.mark.parametrize("energy", [-0.1, 1, 1.5])
def test_an_energy_outside_its_range_is_refused(energy: float) -> None:
    with pytest.raises(UserError, match=r"not in \[0, 1\)"):
        energy_rank(torch.ones(3), energy)
