"""Moderated variances, against samples whose variances were drawn from a known prior."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

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
    assert found.weight == pytest.approx(6, rel=0.1) and found.prior == pytest.approx(0.3, rel=0.03)
    assert set(np.round(found.freedoms - freedom - found.weight, 9)) == {0.0}
    assert found.variances[0] == pytest.approx(
        (found.weight * found.prior + freedom * drawn[0]) / (found.weight + freedom)
    )
    error = np.mean((np.log(found.variances) - np.log(true)) ** 2)
    assert error < 0.5 * np.mean((np.log(drawn) - np.log(true)) ** 2)  # nearer to the truth than the samples' own


def test_a_variance_of_another_kind_stands_for_itself_and_takes_no_weight_from_the_others() -> None:
    drawn = list(0.3 * stats.chi2.ppf((np.arange(12) + 0.5) / 12, 2) / 2)  # of one variance
    found, alone = moderate([*drawn, 80.0], [2] * 13), moderate(drawn, [2] * 12)
    assert found.variances[-1] == 80.0 and found.freedoms[-1] == 2
    assert list(found.variances[:-1]) == list(alone.variances) and list(found.freedoms[:-1]) == list(alone.freedoms)
    assert moderate([*drawn, 1.0], [2] * 13).variances[-1] < 1.0  # F(2, 24) = 3 or so of thirteen is no outlier


def test_outliers_are_seldom_found_where_there_is_none() -> None:
    """Among ten variances of one prior. The prior is estimated from few, so that it is more than one time in 100."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(400):
        drawn = 0.3 * 6 / rng.chisquare(6, 10) * rng.chisquare(2, 10) / 2
        found += bool((moderate(drawn, [2] * 10).variances == drawn).any())
    assert found <= 0.1 * 400


def test_one_value_gets_the_common_variance_and_none_with_two_is_refused() -> None:
    found = moderate([0.01, 9.0, 0.5, 0.02, 0.0], [2, 2, 2, 2, 0])
    assert np.isfinite(found.weight) and found.variances[4] == pytest.approx(found.prior)
    assert found.freedoms[4] == pytest.approx(found.weight)
    with pytest.raises(ValueError, match="no sample has two values"):
        moderate([0.0, 0.0], [0, 0])


def test_equal_values_have_no_variance_of_minus_infinity() -> None:
    assert list(moderate([0.0, 0.0, 0.0], [2, 2, 2]).variances) == [0, 0, 0]
    assert np.isfinite(moderate([0.0, 1.0, 2.0, 1.5], [2, 2, 2, 2]).variances).all()
