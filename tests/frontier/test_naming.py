"""Names beside the axes do not cover each other, and their lines do not cross."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from paredown.frontier.naming import MARKS_AT, apart, untangled

FRACTIONS = st.integers(0, 1000).map(lambda value: value / 1000)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_names_keep_their_order_and_their_distance(places: list[float]) -> None:
    found = apart(sorted(places, reverse=True), 0.05)
    assert len(found) == len(places) and min(found) >= -1e-9 and max(found) <= 1
    assert all(above - below >= 0.05 - 1e-9 for above, below in pairwise(found))


def test_names_with_room_stay_at_their_points() -> None:
    assert apart([0.9, 0.5, 0.1], 0.05) == [0.9, 0.5, 0.1]
    assert apart([0.5, 0.5], 0.1) == [0.5, 0.4] and apart([0.0, 0.0], 0.1) == [0.1, 0.0]
    assert apart([0.5, 0.4], 0.1, least=0.6) == [0.7, 0.6]


@given(st.lists(st.tuples(FRACTIONS, FRACTIONS), min_size=1, max_size=25, unique=True))
def test_no_two_lines_to_the_names_cross(points: list[tuple[float, float]]) -> None:
    places = apart(sorted((y for _, y in points), reverse=True), 0.04)
    joined = untangled(np.array(points), places)
    assert sorted(joined) == list(range(len(points)))
    lines = [(np.array(points[index]), np.array([MARKS_AT, y])) for index, y in zip(joined, places, strict=True)]
    for (a, b), (c, d) in combinations(lines, 2):
        sides = side(a, b, c) * side(a, b, d), side(c, d, a) * side(c, d, b)
        assert not all(product < -1e-12 for product in sides)


def side(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    """Return a positive number for `c` on the left of the line from `a` to `b`, a negative one on the right."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
