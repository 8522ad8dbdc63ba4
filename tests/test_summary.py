"""The table at the end claims a speed-up only where the measurement bears it."""

from __future__ import annotations

import pytest

from paredown.summary import _measured


@pytest.mark.parametrize(
    ("ratio", "low", "high", "text"),
    [
        (1.21, 0.9, 1.4, "no faster, measured"),
        (1.02, 1.01, 1.03, "no faster, measured"),
        (2.0, 1.9, 2.1, "2.00x faster, measured"),
        (0.5, 0.45, 0.55, "2.00x SLOWER, measured"),
    ],
)
def test_a_speed_up_is_claimed_only_if_it_shows(ratio: float, low: float, high: float, text: str) -> None:
    assert _measured(ratio, low, high) == text
