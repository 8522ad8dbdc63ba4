"""What changed since the last report in the same folder: settings that are new, gone, or beyond their interval."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from paredown.core.errors import UserError
from paredown.core.files import read_json, write_text
from paredown.core.formatting import number

if TYPE_CHECKING:
    from paredown.report.build import Report

NAME = "report.json"  # beside report.html
IGNORED = "it is ignored, and written again"
SHOWN = 20  # lines of one kind


@dataclass(frozen=True)
class Point:
    """A setting of a report: its name, its means, the interval of y (None: one seed) and its number of seeds."""

    name: str
    x: float
    y: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Snapshot:
    """The settings of a report by their keys, with the names of the two axes and the time `when` it was written."""

    when: str
    x: str
    y: str
    settings: dict[str, Point]


@dataclass(frozen=True)
class Stored(Snapshot):
    """What NAME holds: the last report, and the one before it whose settings were others."""

    previous: Snapshot | None = None


@dataclass(frozen=True)
class Changes:
    """Lines on what changed since the report of `since`; `since` is "" where there is no other to compare with."""

    since: str
    lines: list[str]


NOTHING = Changes("", [])


def remember(report: Report, folder: Path) -> Changes:
    """Compare `report` with the last one in `folder`, or with the one before where nothing changed since then, and keep
    it in its place. A damaged record of the last one is said so and replaced."""
    now = _snapshot(report)
    try:
        last: Stored | None = read_json(folder / NAME, Stored, IGNORED) if (folder / NAME).exists() else None
    except UserError as error:
        _keep(now, None, folder)
        return Changes("", [f"The last report cannot be compared: {error}."])
    same = last is not None and (last.x, last.y, last.settings) == (now.x, now.y, now.settings)
    before = last.previous if last and same else last
    _keep(now, before, folder)
    return Changes(before.when, _differences(before, now)) if before else NOTHING


def _keep(now: Snapshot, before: Snapshot | None, folder: Path) -> None:
    parts = {name: getattr(before, name) for name in ("when", "x", "y", "settings")} if before else None
    stored = Stored(now.when, now.x, now.y, now.settings, Snapshot(**parts) if parts else None)
    write_text(folder / NAME, json.dumps(asdict(stored), indent=1))


def _snapshot(report: Report) -> Snapshot:
    settings = {}
    for name, row in report.points.iterrows():
        low, high = (None if math.isnan(row[side]) else float(row[side]) for side in ("y_low", "y_high"))
        settings[row["key"]] = Point(str(name), float(row["x"]), float(row["y"]), low, high, int(row["seeds"]))
    when = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    return Snapshot(when, report.x.name, report.y.name, settings)


def _differences(before: Snapshot, now: Snapshot) -> list[str]:
    if (before.x, before.y) != (now.x, now.y):
        return [f"It drew {before.y} over {before.x}: other axes, not compared."]
    added = [point.name for key, point in now.settings.items() if key not in before.settings]
    gone = [point.name for key, point in before.settings.items() if key not in now.settings]
    both = [(before.settings[key], point) for key, point in now.settings.items() if key in before.settings]
    moved = [line for old, new in both if (line := _moved(old, new, now.y))]
    found = [*_listed("New", added), *_listed("Gone", gone), *_cut(moved)]
    return found or ["No setting is new, gone, or beyond its interval."]


def _moved(old: Point, new: Point, y: str) -> str:
    """Return a line on a mean that left the interval that it had, or, of one seed, its value; "" for any other."""
    low, high = (old.y if bound is None else bound for bound in (old.low, old.high))
    if low <= new.y <= high or math.isclose(new.y, old.y):
        return ""
    was = "one seed" if old.low is None else f"{number(low)} to {number(high)}"
    return f"{new.name}: {y} {number(old.y)} ({was}) is now {number(new.y)}, {new.seeds} seed{'s'[: new.seeds > 1]}."


def _listed(what: str, names: list[str]) -> list[str]:
    return [f"{what}: {', '.join(_cut(names))}."] if names else []


def _cut(items: list[str]) -> list[str]:
    return [*items[:SHOWN], *([f"and {len(items) - SHOWN} more"] if len(items) > SHOWN else [])]
