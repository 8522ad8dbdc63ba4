"""Points of a report as text."""

from __future__ import annotations

from html import escape
from typing import Any

from paredown.core.errors import printable
from paredown.core.formatting import plus_minus, si
from paredown.frontier.axes import Axis
from paredown.frontier.seeds import Estimate
from paredown.report.targets import HEAD, cell
from paredown.report.training_cost import TrainingCost

MARKS = {ord(mark): f"&#{ord(mark)};" for mark in "|[]`*\\"}  # a backslash before | does not do in every renderer


def markdown(text: str) -> str:
    """Return `text` as Markdown shows it literally, in a table too: what was recorded makes no link, tag or column."""
    return escape(printable(text), quote=False).translate(MARKS)


def hover(name: str, row: Any, x: Axis, y: Axis, cost: TrainingCost) -> str:
    """Return the text that plotly shows for the setting `name` under the pointer, as HTML lines."""
    lines = [f"<b>{escape(name)}</b>", f"{y.title}: {spread(row, 'y')}", f"{x.title}: {spread(row, 'x')}"]
    lines += [f"{HEAD}: {cell(row)}"] if cell(row) else []
    lines += [f"{row['seeds']} seeds: {row['state']}" if row["seeds"] > 1 else f"one seed, no interval: {row['state']}"]
    lines += [escape(f"{parameter} = {value}") for parameter, value in row["hyperparameters"].items()]
    if name in cost.settings.index:
        took = cost.settings.loc[name]
        lines.append(f"to train: {took['epochs']:.0f} epochs, {took['seconds']:,.0f} s, {si(took['macs'])} MACs")
    return "<br>".join([*lines, "click: its runs"])


def spread(row: Any, axis: str) -> str:
    """Return the mean of `row` on `axis` (x or y) with its half interval if it has one: 91.20 ± 0.31."""
    return plus_minus(row[axis], row[f"{axis}_high"] - row[axis])


def share(area: Estimate) -> str:
    """Return a dominated share with its interval: 83.1 % ± 2.0 (3 seeds)."""
    if area.seeds == 1:
        return f"{100 * area.mean:.1f} % (one seed)"
    return f"{100 * area.mean:.1f} % ± {100 * area.half_width:.1f} ({area.seeds} seeds)"
