"""Fronts against their definition, word by word."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paredown.frontier import hypervolume, knee, pareto

VALUES = st.integers(-4, 4).map(float) | st.floats(-1e6, 1e6).map(lambda x: round(x, 2)) | st.just(float("nan"))
POINTS = st.lists(st.tuples(VALUES, VALUES), max_size=25)
GRID = st.lists(st.tuples(st.integers(-1, 9), st.integers(-1, 9)), max_size=20)
DIRECTIONS = st.tuples(st.booleans(), st.booleans())


def better(one: float, other: float, maximize: bool) -> bool:
    return one > other if maximize else one < other


def dominates(one, other, maximize) -> bool:
    no_worse = all(a == b or better(a, b, up) for a, b, up in zip(one, other, maximize, strict=True))
    return no_worse and any(better(a, b, up) for a, b, up in zip(one, other, maximize, strict=True))


@given(POINTS, DIRECTIONS, st.integers(0, 2**32 - 1))
def test_the_front_is_what_nothing_dominates(points, maximize, seed) -> None:
    """Also with a few last bits of each number changed: rounding decides nothing."""
    bits = np.random.default_rng(seed).integers(-3, 4, (len(points), 2)) * np.finfo(float).eps
    mask = pareto(np.reshape(points, (-1, 2)) * (1 + bits), maximize)
    usable = [not np.isnan(point).any() for point in points]
    expected = [
        ok and not any(dominates(other, point, maximize) for other in points)
        for point, ok in zip(points, usable, strict=True)
    ]
    assert mask.dtype == bool and mask.tolist() == expected


@given(GRID, st.tuples(st.integers(0, 8), st.integers(0, 8)), DIRECTIONS)
def test_hypervolume_is_the_number_of_dominated_unit_squares(points, reference, maximize) -> None:
    """On an integer grid the area is a count of unit squares between a point and the reference."""

    def covers(point, square) -> bool:
        inside = []
        for value, limit, corner, up in zip(point, reference, square, maximize, strict=True):
            inside.append(limit <= corner < value if up else value <= corner < limit)
        return all(inside)

    squares = [(i, j) for i in range(-1, 9) for j in range(-1, 9)]
    area = sum(any(covers(point, square) for point in points) for square in squares)
    assert hypervolume(points, reference, maximize) == area


def test_duplicates_and_ties_and_nan() -> None:
    points = [(1, 5), (1, 5), (1, 4), (2, 5), (2, 6), (np.nan, 9), (0, np.nan)]
    assert pareto(points, (False, True)).tolist() == [True, True, False, False, True, False, False]
    assert pareto([], (True, True)).tolist() == [] and hypervolume([], (1, 1), (True, True)) == 0
    assert pareto([(np.inf, -np.inf)], (False, True)).tolist() == [True]
    assert pareto(np.full((3, 2), np.nan), (True, True)).sum() == 0


def test_means_that_differ_in_the_last_bit_are_equal() -> None:
    three = float(np.mean([0.1, 0.2, 0.3]))  # 0.20000000000000004 in one order of the seeds, 0.2 in another
    other = float(np.mean([0.3, 0.2, 0.1]))
    assert three != other
    worse, better = (min(three, other), 60.0), (max(three, other), 90.0)
    assert pareto([worse, better], (False, True)).tolist() == [False, True]
    assert pareto([(60.0, worse[0]), (90.0, better[0])], (True, False)).tolist() == [False, True]
    assert hypervolume([worse, better], (1, 50), (False, True)) == pytest.approx(0.8 * 40)
    assert pareto([(4_000_000_000, 60), (4_000_000_100, 90)], (False, True)).all()  # a hundred MACs are a hundred


def test_worked_hypervolume() -> None:
    """Boxes 4 x 1, 3 x 2 and 1 x 3 from the corner (5, 0), one point outside, one dominated, one NaN."""
    points = [(1, 1), (2, 2), (4, 3), (6, 9), (3, 1), (np.nan, 5)]
    assert hypervolume(points, (5, 0), (False, True)) == 4 * 1 + 3 * 1 + 1 * 1


@pytest.mark.parametrize("points", [[(1, 2, 3)], [1, 2], np.zeros((2, 2, 2))])
def test_another_shape_is_refused(points) -> None:
    with pytest.raises(ValueError, match="shape"):
        pareto(points, (True, True))


@pytest.mark.parametrize("shape", ["random", "all on the front", "all equal"])
def test_a_hundred_thousand_points_take_seconds(shape) -> None:
    points = np.random.default_rng(0).random((100_000, 2))
    if shape == "all on the front":
        points[:, 1] = points[:, 0]
    if shape == "all equal":
        points[:] = 1
    started = time.perf_counter()
    mask = pareto(points, (False, True))
    hypervolume(points, (2, -1), (False, True))
    assert time.perf_counter() - started < 2
    assert (mask.sum() < 100) if shape == "random" else mask.all()


def test_the_knee_is_furthest_beyond_the_line_between_the_ends() -> None:
    # scaled: (0, 0), (0.25, 0.8), (0.5, 0.9), (1, 1): distances 0, 0.55, 0.4, 0
    points = [(10, 50), (20, 90), (30, 95), (50, 100), (45, 60)]
    assert knee(points, (False, True)) == 1
    assert knee([(-x, y) for x, y in points], (True, True)) == 1
    assert knee([(0, 0), (1, 1), (2, 2)], (False, True)) is None  # straight
    assert knee([(0, 0), (9, 1), (10, 10)], (False, True)) is None  # bends the other way
    assert knee([(0, 0), (1, 1)], (False, True)) is None and knee([], (False, True)) is None
