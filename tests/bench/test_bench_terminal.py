"""The verdict of a bench in words: faster, slower, or neither where the interval includes equality."""

from __future__ import annotations

import pytest

from paredown.bench.measure import Batch, Bench, SpeedUp
from paredown.bench.quiet import Quiet
from paredown.bench.terminal import words


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict"),
    [
        (2.0, 1.9, 2.1, "2.00x faster"),
        (0.5, 0.4, 0.6, "2.00x SLOWER"),
        (0.97, 0.9, 1.02, "no faster"),
        (1.02, 0.99, 1.1, "no faster"),
    ],
)
def test_slower_is_said_as_loudly_as_faster(value: float, low: float, high: float, verdict: str) -> None:
    speed_up = SpeedUp("fp32", "bf16", value, low, high, [value])
    quiet = Quiet(others=0.0, load=0.0, spread=0.0)
    batches = [Batch(32, 10, [], [speed_up])]
    bench = Bench("ssc", None, "a processor", 1, "auto", 10, 40, batches, 32, [], quiet)
    assert words(bench)[:2] == [
        "MACs: 10 of 40, 4.00x fewer",
        f"batch 32: deployed bf16 against dense fp32 {verdict}",
    ]
