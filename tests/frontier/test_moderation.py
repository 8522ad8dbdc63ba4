"""Moderated variances, against samples whose variances were drawn from a known prior."""

from __future__ import annotations

import numpy as np
import pytest

from paredown.frontier.moderation import moderate


def test_equal_variances_are_pooled_with_all_degrees_of_freedom() -> None:
    found = moderate([0.2, 0.21, 0.19, 0.2], [2, 2, 2, 3])
    assert found.weight == np.inf and list(found.freedoms) == [9] * 4
    assert list(found.variances) == pytest.approx([(0.4 + 0.42 + 0.38 + 0.6) / 9] * 4)


@pytest.mark.parametrize("freedom", [2, 4])
def test_the_prior_that_variances_were_drawn_from_is_found(freedom: int) -> None:
    rng = np.random.default_rng(0)
    true = 0.3 * 6 / rng.chisquare(6, 20_000)  # a scaled inverse chi-squared distribution of 6 degrees of freedom
    drawn = true * rng.chisquare(freedom, 20_000) / freedom
    found = moderate(drawn, [freedom] * 20_000)
    assert found.weight == pytest.approx(6, rel=0.1) and found.prior[0] == pytest.approx(0.3, rel=0.03)
    assert set(np.round(found.freedoms - freedom - found.weight, 9)) == {0.0}
    assert found.variances[0] == pytest.approx(
        (found.weight * found.prior[0] + freedom * drawn[0]) / (found.weight + freedom)
    )
    error = np.mean((np.log(found.variances) - np.log(true)) ** 2)
    assert error < 0.5 * np.mean((np.log(drawn) - np.log(true)) ** 2)  # nearer to the truth than the samples' own


def test_one_value_gets_the_common_variance_and_none_with_two_is_refused() -> None:
    found = moderate([0.01, 9.0, 0.5, 0.02, 0.0], [2, 2, 2, 2, 0])
    assert np.isfinite(found.weight) and found.variances[4] == pytest.approx(found.prior[4])
    assert found.freedoms[4] == pytest.approx(found.weight)
    with pytest.raises(ValueError, match="no sample has two values"):
        moderate([0.0, 0.0], [0, 0])


def test_equal_values_have_no_variance_of_minus_infinity() -> None:
    assert list(moderate([0.0, 0.0, 0.0], [2, 2, 2]).variances) == [0, 0, 0]
    assert np.isfinite(moderate([0.0, 1.0, 2.0, 1.5], [2, 2, 2, 2]).variances).all()


def test_a_common_variance_that_falls_with_the_level_is_found() -> None:
    rng = np.random.default_rng(0)
    levels = rng.uniform(50, 80, 20_000)
    true = np.exp(-0.2 * (levels - 70)) * 8 / rng.chisquare(8, 20_000)
    drawn = true * rng.chisquare(2, 20_000) / 2
    found, flat = moderate(drawn, [2] * 20_000, list(levels)), moderate(drawn, [2] * 20_000)
    assert found.weight == pytest.approx(8, rel=0.1) and flat.weight < 2
    assert found.prior == pytest.approx(np.exp(-0.2 * (levels - 70)), rel=0.1)


def test_a_trend_takes_two_degrees_of_freedom_and_six_samples_that_differ() -> None:
    variances = [0.2, 0.21, 0.19, 0.2, 0.2, 0.2]
    levels = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert list(moderate(variances, [2] * 6, levels).freedoms) == [10] * 6
    assert list(moderate(variances, [2] * 6, [7.0] * 6).freedoms) == [12] * 6
    assert list(moderate(variances[:5], [2] * 5, levels[:5]).freedoms) == [10] * 5
    alone = moderate([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 0.0], [2] * 6 + [0], [*levels, 60.0])
    assert alone.variances[6] == pytest.approx(alone.prior[5])  # beyond the others' levels nothing is known
