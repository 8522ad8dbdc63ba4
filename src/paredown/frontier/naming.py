"""Names of many methods beside the axes of a picture, each with its mark and a dotted line to its point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MARKS_AT, NAMES_AT = 1.06, 1.09  # of the width of the axes
LINE = 0.145  # inches of height that a name takes
SIZE = 9  # points


@dataclass(frozen=True)
class Named:
    """A point (`x`, `y`) of a picture and how it is named: its `colour` and matplotlib's `marker`."""

    name: str
    x: float
    y: float
    colour: str
    marker: str


def write_names(axes: Any, points: Sequence[Named], inches: float, least: float = 0.0) -> None:
    """Write the names of `points` beside `axes`, which are about `inches` high and whose scales and ranges are final,
    near the heights of the points and above the fraction `least` of the axes where there is room. No two lines cross.
    """
    within = axes.get_yaxis_transform()
    at = (axes.transData + axes.transAxes.inverted()).transform([(point.x, point.y) for point in points])
    places = apart(sorted(at[:, 1], reverse=True), LINE / inches, least)
    low, high = axes.get_ylim()
    for place, index in zip(places, untangled(at, places), strict=True):
        point, y = points[index], low + place * (high - low)
        line = {"arrowstyle": "-", "color": point.colour, "lw": 0.6, "ls": ":", "shrinkA": 0, "shrinkB": 2}
        ends = {"xy": (point.x, point.y), "xytext": (MARKS_AT, y), "textcoords": within}
        axes.annotate("", **ends, annotation_clip=False, arrowprops=line, zorder=2)
        mark = {"marker": point.marker, "markersize": 4, "color": point.colour, "ls": "", "clip_on": False}
        axes.plot([MARKS_AT], [y], transform=within, **mark)
        axes.text(NAMES_AT, y, point.name, transform=within, color=point.colour, fontsize=SIZE, va="center")


def untangled(points: np.ndarray[Any, Any], places: Sequence[float]) -> list[int]:
    """Return for each of `places`, heights at the right of all `points` (n, 2), the index of the point to join it with:
    the lines of the smallest total length, of which no two cross, as uncrossing two would shorten both together."""
    from scipy.optimize import linear_sum_assignment

    lengths = np.hypot(MARKS_AT - points[None, :, 0], np.subtract.outer(np.array(places), points[:, 1]))
    return [int(index) for index in linear_sum_assignment(lengths)[1]]


def apart(wanted: Sequence[float], step: float, least: float = 0.0) -> list[float]:
    """Return places near the `wanted` ones, which fall, at least `step` from each other and from `least` to 1 where
    there is room: first as high as they may be, then pushed up from below."""
    found: list[float] = []
    for place in wanted:
        found.append(min(place, found[-1] - step) if found else min(place, 1.0))
    for index in reversed(range(len(found))):
        found[index] = max(found[index], least)
        least = found[index] + step
    return found
