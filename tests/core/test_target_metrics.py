"""A target counts as missed only where target, reached value and tolerance are known."""

from __future__ import annotations

import pytest

from paredown.core.target_metrics import ASKED, REACHED, TOLERANCE, missed_target


@pytest.mark.parametrize(("reached", "missed"), [(3.9, False), (4.1, False), (3.85, True), (4.15, True)])
def test_a_target_is_missed_beyond_the_tolerance_on_either_side(reached: float, missed: bool) -> None:
    assert missed_target({ASKED: 4.0, REACHED: reached, TOLERANCE: 0.125}) is missed


@pytest.mark.parametrize("absent", [ASKED, REACHED, TOLERANCE])
def test_nothing_is_missed_where_a_metric_is_absent(absent: str) -> None:
    metrics = {ASKED: 4.0, REACHED: 1.0, TOLERANCE: 0.1}
    assert not missed_target({name: value for name, value in metrics.items() if name != absent})
    assert not missed_target(metrics | {absent: float("nan")})
