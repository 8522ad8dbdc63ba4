"""Number formats, against values written by hand."""

from __future__ import annotations

import pytest

from paredown.core.formatting import fixed, grouped, number, plus_minus, si

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.25, "0.25"),
        (0, "0"),
        (320_000, "320k"),
        (1_500_000, "1.5M"),
        (-2e9, "-2G"),
        (1.245e6, "1.25M"),
        (3e12, "3T"),
        (4e15, "4P"),
        (999, "999"),
        (999.9, "1k"),  # rounds up to the next prefix
        (999_999, "1M"),
        (999_499, "999k"),
    ],
)
def test_si_prefixes(value: float, text: str) -> None:
    assert si(value) == text


def test_decimals_follow_the_magnitude() -> None:
    assert [number(value) for value in (9.5, 91.2, 999, 1000, -12_345)] == ["9.500", "91.20", "999.00", "1k", "-12.3k"]
    assert (fixed(None), fixed(1.005), fixed(2.0, 3), grouped(40_813_184.0)) == ("", "1.00", "2.000", "40,813,184")


def test_the_half_width_takes_the_format_of_the_mean() -> None:
    assert plus_minus(91.2, 0.314) == "91.20 ± 0.31" and plus_minus(9.0, 0.2271) == "9.000 ± 0.227"
    assert plus_minus(1.5e6, 2e4) == "1.5M ± 20k"
    assert plus_minus(91.2, NAN) == plus_minus(91.2, 0.0) == "91.20"
