"""Numbers and points as people read them."""

from __future__ import annotations

import math
from typing import Any

from paredown.frontier.axes import Axis
from paredown.frontier.figure import short
from paredown.frontier.seeds import Estimate
from paredown.report.price import Price

THOUSAND = 1000


def hover(name: str, row: Any, x: Axis, y: Axis, paid: Price) -> str:
    """A setting in full, as plotly shows it under the pointer."""
    lines = [f"<b>{name}</b>", f"{y.title}: {spread(row, 'y')}", f"{x.title}: {spread(row, 'x')}"]
    lines += [f"{row['seeds']} seeds: {row['state']}" if row["seeds"] > 1 else f"one seed, no interval: {row['state']}"]
    lines += [f"{knob} = {value}" for knob, value in row["knobs"].items()]
    if name in paid.settings.index:
        cost = paid.settings.loc[name]
        lines.append(f"to train: {cost['epochs']:.0f} epochs, {cost['seconds']:,.0f} s, {short(cost['macs'])} MACs")
    return "<br>".join([*lines, "click: the run in MLflow"])


def spread(row: Any, name: str) -> str:
    """A mean with its half interval where it has one: 91.20 ± 0.31."""
    half = row[f"{name}_high"] - row[name]
    if math.isnan(half) or half == 0:
        return number(row[name])
    if abs(row[name]) >= THOUSAND:
        return f"{short(row[name])} ± {short(half)}"
    return f"{number(row[name])} ± {half:.{_digits(row[name])}f}"


def number(value: float) -> str:
    """As people write it: 320k from a thousand on, below it two digits, below ten three."""
    return short(value) if abs(value) >= THOUSAND else f"{value:.{_digits(value)}f}"


def share(area: Estimate) -> str:
    """A dominated share with its interval: 83.1 % ± 2.0."""
    if area.seeds == 1:
        return f"{100 * area.mean:.1f} % (one seed)"
    return f"{100 * area.mean:.1f} % ± {100 * area.half_width:.1f} ({area.seeds} seeds)"


def _digits(value: float) -> int:
    return 3 if abs(value) < 10 else 2
