"""The metrics that hold the target asked for, the value reached and the tolerance, in the target's unit."""

from __future__ import annotations

from collections.abc import Mapping

ASKED, REACHED, TOLERANCE = "target/asked", "target/reached", "target/tolerance"


def missed_target(metrics: Mapping[str, float]) -> bool:
    """Return whether the value reached differs from the target by more than the tolerance; False if one of the three
    metrics is absent or NaN (runs without a target, runs of older versions)."""
    asked, reached, tolerance = (metrics.get(name, float("nan")) for name in (ASKED, REACHED, TOLERANCE))
    return abs(reached - asked) > tolerance
