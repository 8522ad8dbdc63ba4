"""What a target may ask for, and the metrics that hold what was asked, reached and tolerated, in its unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

Quantity = Literal["sparsity", "speed_up", "latency_speed_up"]  # that a target asks for
TARGETS: tuple[Quantity, ...] = get_args(Quantity)
ASKED, REACHED, TOLERANCE = "target/asked", "target/reached", "target/tolerance"


def missed_target(metrics: Mapping[str, float]) -> bool:
    """Return whether the value reached differs from the target by more than the tolerance; False if one of the three
    metrics is absent or NaN (runs without a target, runs of older versions)."""
    asked, reached, tolerance = (metrics.get(name, float("nan")) for name in (ASKED, REACHED, TOLERANCE))
    return abs(reached - asked) > tolerance
