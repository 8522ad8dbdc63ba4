"""Intervals and states against scipy and by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from paredown.frontier import hypervolume, seeds
from paredown.frontier.seeds import DOMINATED, ON_FRONT, UNDECIDED, difference, estimate, hypervolume_estimate, states

FRONT = (False, True)  # cost, accuracy
COUNTED = (True, False)
SAMPLES = st.lists(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9).map(float) | st.floats(0, 9)), min_size=1, max_size=4),
    min_size=1,
    max_size=7,
)


def test_the_interval_is_students() -> None:
    values = [91.0, 92.5, 90.3]
    found = estimate(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((np.mean(values), expected.low, expected.high))
    assert found.half_width == pytest.approx((expected.high - expected.low) / 2)


def test_one_seed_has_no_interval_and_equal_seeds_have_none_of_width() -> None:
    alone = estimate([91.0])
    assert alone.mean == 91 and alone.seeds == 1 and np.isnan([alone.low, alone.high]).all()
    assert estimate([5.0, 5.0]).low == estimate([5.0, 5.0]).high == 5
    assert np.isnan(estimate([1.0, np.nan]).mean) and np.isnan(estimate([]).mean)


def test_the_difference_is_welchs() -> None:
    one, other = [91.0, 92.5, 90.3], [88.0, 89.5]
    found = difference(one, other)
    expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert np.isnan(difference(one, [88.0]).low)


def test_three_states() -> None:
    good, bad = [(10, 90.0), (10, 90.2), (10, 90.1)], [(20, 80.0), (20, 80.3), (20, 80.1)]
    like_good = [(10, 90.0), (10, 90.3), (10, 89.9)]
    assert states([good, bad], FRONT, COUNTED) == [ON_FRONT, DOMINATED]
    assert states([good, like_good], FRONT, COUNTED) == [UNDECIDED, UNDECIDED]
    assert states([good, good], FRONT, COUNTED) == [UNDECIDED, UNDECIDED]  # equal by chance, not by nature
    assert states([[(10, 90.0)] * 3] * 2, FRONT, COUNTED) == [ON_FRONT, ON_FRONT]  # known to be equal
    assert states([], FRONT, COUNTED) == []


@pytest.mark.parametrize("seeds", [2, 3, 4, 5, 7, 10])
def test_equal_costs_are_equal_whatever_float_they_are(seeds: int) -> None:
    """The variance of three equal floats need not be zero in floating point, nor their mean that float."""
    draw = np.random.default_rng(seeds)
    for cost in draw.uniform(1, 11, 200):
        assert (found := estimate([cost] * seeds)).low == found.mean == found.high == cost
        bad, good = (np.c_[np.full(seeds, cost), draw.normal(y, 0.1, seeds)] for y in (50, 90))
        assert states([bad, good], FRONT, COUNTED) == [DOMINATED, ON_FRONT]
        more = np.c_[np.full(seeds + 1, np.nextafter(cost, 12)), draw.normal(90, 0.1, seeds + 1)]
        assert states([bad, more], FRONT, COUNTED) == [DOMINATED, ON_FRONT]  # the next float: another order of a sum
        assert difference(bad[:, 0], more[:, 0]).mean == 0


def test_one_seed_decides_nothing_but_a_counted_cost() -> None:
    cheap, dear = [(10, 50.0)], [(20, 90.0)]
    assert states([cheap, dear], FRONT, COUNTED) == [ON_FRONT, UNDECIDED]
    assert states([cheap, dear], FRONT, (False, False)) == [UNDECIDED, UNDECIDED]  # say, a latency
    assert states([cheap], FRONT, (False, False)) == [ON_FRONT]


@settings(deadline=None)
@given(SAMPLES)
def test_states_by_brute_force(samples) -> None:
    def sure(one, other, column, up) -> tuple[bool, bool]:
        """Whether `one` is certainly better, and certainly no worse, than `other`."""
        sign = 1 if up else -1
        a, b = ([sign * float(row[column]) for row in rows] for rows in (one, other))
        if column == 0 and 1 in (len(a), len(b)):  # counted: one seed stands for all
            a, b = ([values[0]] * 2 if len(values) == 1 else values for values in (a, b))
        if 1 in (len(a), len(b)):
            return False, False
        lead = difference(a, b)
        return lead.low > 0, lead.low >= 0

    for index, (own, state) in enumerate(zip(samples, states(samples, FRONT, COUNTED), strict=True)):
        others = [other for i, other in enumerate(samples) if i != index]
        theirs = [[sure(other, own, c, FRONT[c]) for c in (0, 1)] for other in others]
        ours = [[sure(own, other, c, FRONT[c]) for c in (0, 1)] for other in others]
        beaten = any(all(no_worse for _, no_worse in pair) and any(b for b, _ in pair) for pair in theirs)
        equal = [
            all(a[1] and b[1] and not a[0] and not b[0] for a, b in zip(x, y, strict=True))
            for x, y in zip(theirs, ours, strict=True)
        ]
        safe = all(any(b for b, _ in pair) or same for pair, same in zip(ours, equal, strict=True))
        assert state == (ON_FRONT if safe else DOMINATED if beaten else UNDECIDED)


def test_the_interval_of_a_front_covers_its_hypervolume() -> None:
    """Of 400 sweeps of 3 settings with 3 seeds each, 95 % of the intervals must hold the expected hypervolume."""
    draw = np.random.default_rng(1)
    truth = np.array([(1, 60.0), (2, 80.0), (3, 90.0)])

    def sweep(seeds: int) -> list[np.ndarray]:
        return [truth + [[0, 1.0]] * draw.standard_normal((3, 1)) for _ in range(seeds)]

    expected = np.mean([hypervolume(points, (4, 0), FRONT) for points in sweep(20_000)])
    found = [hypervolume_estimate(sweep(3), (4, 0), FRONT) for _ in range(400)]
    assert np.mean([e.low <= expected <= e.high for e in found]) == pytest.approx(0.95, abs=0.035)


def test_coverage_of_the_states() -> None:
    """Two settings of equal cost and accuracy are told apart no more often than the level allows (2.5 % each way)."""
    draw = np.random.default_rng(2)
    tries = 600
    found = [
        states([np.c_[np.ones(3), draw.normal(90, 1, 3)] for _ in range(2)], FRONT, COUNTED)[0] for _ in range(tries)
    ]
    assert found.count(DOMINATED) / tries < 0.045 and found.count(ON_FRONT) / tries < 0.045


def test_quantiles_are_asked_for_by_far_fewer_pairs_than_there_are(monkeypatch) -> None:
    draw, asked = np.random.default_rng(0), []
    half_width = seeds._half_width
    monkeypatch.setattr(
        seeds, "_half_width", lambda variance, *rest: asked.append(np.size(variance)) or half_width(variance, *rest)
    )
    costs = draw.uniform(1, 10, 1000)
    samples = [np.c_[np.full(3, cost), draw.normal(90 + cost, 0.3, 3)] for cost in costs]
    assert set(states(samples, FRONT, COUNTED)) >= {DOMINATED, UNDECIDED}
    assert sum(asked) < 1000 * 1000 / 10
