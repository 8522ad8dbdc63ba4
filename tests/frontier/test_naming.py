"""Names beside the axes keep their order and do not cover each other."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from paredown.frontier.naming import apart


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_names_keep_their_order_and_their_distance(places: list[float]) -> None:
    found = apart(sorted(places, reverse=True), 0.05)
    assert len(found) == len(places) and min(found) >= -1e-9 and max(found) <= 1
    assert all(above - below >= 0.05 - 1e-9 for above, below in pairwise(found))


def test_names_with_room_stay_at_their_points() -> None:
    assert apart([0.9, 0.5, 0.1], 0.05) == [0.9, 0.5, 0.1]
    assert apart([0.5, 0.5], 0.1) == [0.5, 0.4] and apart([0.0, 0.0], 0.1) == [0.1, 0.0]
    assert apart([0.5, 0.4], 0.1, least=0.6) == [0.7, 0.6]
