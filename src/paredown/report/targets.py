"""Targets in a report: the value asked for, the value reached by each setting, and whether the target was missed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from paredown.core.target_metrics import ASKED, REACHED, missed_target

if TYPE_CHECKING:
    import pandas

HEAD = "target reached"


def add_targets(points: pandas.DataFrame, runs: pandas.DataFrame) -> pandas.DataFrame:
    """Return `points` (a row per setting of `runs`) with the columns `target_asked`, `target_reached` (by the seed
    furthest from the target; both NaN if not recorded) and `target_missed` (by any seed)."""
    table = runs.reindex(columns=["setting", ASKED, REACHED])
    table["missed"] = [missed_target(row) for row in runs.to_dict("records")]
    table["distance"] = (table[REACHED] - table[ASKED]).abs()
    groups = table.sort_values("distance", na_position="first", kind="stable").groupby("setting")
    furthest, missed = groups.last().loc[points.index], groups["missed"].any().loc[points.index]
    return points.assign(target_asked=furthest[ASKED], target_reached=furthest[REACHED], target_missed=missed)


def any_target(points: pandas.DataFrame) -> bool:
    """Return whether any of `points` has a recorded target, and so whether there is a column to show."""
    return bool(points["target_reached"].notna().any())


def cell(point: Any) -> str:
    """Return the value reached by `point`, with the one asked for if it was missed, or '' if none is recorded."""
    if math.isnan(point["target_reached"]):
        return ""
    reached = f"{point['target_reached']:.4g}"
    return f"{reached} (asked {point['target_asked']:.4g}, MISSED)" if point["target_missed"] else reached


def sentences(points: pandas.DataFrame) -> list[str]:
    """Return a sentence for each setting of `points` that missed its target."""
    return [
        f"Target missed: {name} asked for {point['target_asked']:.4g} and reached {point['target_reached']:.4g}."
        for name, point in points[points["target_missed"]].iterrows()
    ]
