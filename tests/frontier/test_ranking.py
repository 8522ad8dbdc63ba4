"""Rankings, against scipy's tests, brute force and hand-computed adjustments."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from paredown.frontier.ranking import Ranking, holm, letters, rank


def any_apart(found: Ranking) -> bool:
    return any(found.apart(*pair) for pair in found.adjusted)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # Holm 1979: 4, 3, 2, 1 times
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_two_settings_are_students_t_test() -> None:
    one, other = [90.1, 90.4, 90.2], [89.0, 89.4, 89.1]
    found = rank({"a": one, "b": other})
    assert found.names == ("a", "b")
    assert found.adjusted[frozenset("ab")] == pytest.approx(stats.ttest_ind(one, other).pvalue)


def test_settings_that_scatter_alike_have_one_pooled_variance() -> None:
    """The residual variance of a one-way analysis of variance, whose F test scipy computes from the same."""
    rng = np.random.default_rng(0)
    samples = {name: rng.normal(centre, 1, 4) for name, centre in zip("abcd", (0, 1, 5, 9), strict=True)}
    found = rank(samples)
    within = sum(((values - values.mean()) ** 2).sum() for values in samples.values()) / 12
    lead = samples["d"].mean() - samples["c"].mean()
    raw = 2 * stats.t.sf(lead / np.sqrt(within / 2), 12)
    assert raw <= found.adjusted[frozenset("cd")] <= 6 * raw
    assert found.half_width["a"] == pytest.approx(stats.t.ppf(0.975, 12) * np.sqrt(within / 4))
    assert found.apart("d", "a") and found.names[0] == "d"


def test_settings_that_scatter_differently_are_seldom_told_apart_by_chance() -> None:
    """One variance for all would tell some of these settings, whose means are equal, apart in a third of the trials."""
    rng = np.random.default_rng(0)
    trials, found = 100, 0
    for _ in range(trials):
        spreads = 0.5 * np.exp(rng.normal(0, 0.8, 30))
        found += any_apart(rank({f"n{i}": rng.normal(75, spread, 3) for i, spread in enumerate(spreads)}))
    assert found <= 10  # 5 are expected


def test_a_few_settings_that_scatter_find_no_differences_and_take_no_power_from_the_others() -> None:
    rng, trials, found = np.random.default_rng(0), 100, 0
    for _ in range(trials):
        spreads = [*10 * [0.7], 3.0, 4.0, 8.0]
        found += any_apart(rank({f"n{i}": rng.normal(65, spread, 3) for i, spread in enumerate(spreads)}))
    assert found <= 10  # 5 are expected
    one = {f"n{i}": 66 - i + 0.5 * np.array([-1.0, 0.0, 1.0]) for i in range(8)}
    wild = {"low": [42.0, 52.0, 59.0], "lower": [49.0, 51.0, 58.0]}
    assert rank(one | wild).apart("n0", "n4")


def test_a_setting_that_scatters_has_a_wider_interval_and_one_of_one_seed_that_of_its_level() -> None:
    rng = np.random.default_rng(0)
    quiet = {f"n{i}": rng.normal(80, 0.2, 3) for i in range(20)}
    found = rank(quiet | {"loud": [60.0, 70.0, 80.0], "once": [80.4]})
    assert found.half_width["loud"] > 5 * found.half_width["n0"]
    assert 1 < found.half_width["once"] / found.half_width["n0"] < 10 and not found.apart("once", "n0")


@given(st.integers(1, 7), st.data())
def test_names_share_a_letter_exactly_if_they_are_alike(number: int, data: st.DataObject) -> None:
    names = [f"n{index}" for index in range(number)]
    pairs = list(itertools.combinations(names, 2))
    alike = [pair for pair in pairs if data.draw(st.booleans())]
    found = letters(names, alike)
    for one, other in pairs:
        assert bool(set(found[one]) & set(found[other])) == ((one, other) in alike)
    assert all(found.values()) and found[names[0]].startswith("a")


def test_a_slack_moves_the_mean_that_is_tested() -> None:
    one, other = [90.1, 90.4, 90.2], [89.0, 89.4, 89.1]
    found = rank({"a": one, "b": other})
    assert found.p_value("b", "a", 1.5) == pytest.approx(stats.ttest_ind(np.array(other) + 1.5, one).pvalue)


def test_without_any_variance_every_difference_is_told_apart() -> None:
    found = rank({"a": [1.0, 1.0], "b": [1.0, 1.0], "c": [2.0, 2.0]})
    assert not found.apart("a", "b") and found.apart("a", "c") and found.apart("b", "c")


def test_one_seed_each_is_no_ranking() -> None:
    with pytest.raises(ValueError, match="no setting has two seeds"):
        rank({"a": [1.0], "b": [2.0]})
