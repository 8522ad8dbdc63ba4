"""Controls of the points of a front: their cost and accuracy, and the lead of the point over each."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from paredown.core.formatting import number
from paredown.frontier import front
from paredown.frontier.axes import Axis
from paredown.frontier.seeds import Estimate, difference
from paredown.report.formatting import spread

if TYPE_CHECKING:
    import pandas

KINDS = {
    "random": "as many weights (drawn at random) or the same rank (newly initialised factors) in each layer",
    "uniform": "one density or one fraction of the rank in every layer",
    "dense": "a dense network of fewer channels",
}
SIGNIFICANT, NOT_SIGNIFICANT, ONE_SEED = "significant", "not significant", "one seed, no interval"


def controls(runs: pandas.DataFrame, x: Axis, y: Axis) -> pandas.DataFrame:
    """Return a row per control among `runs` as `front.settings` does, with `control` (its kind), `of` (the setting that
    it is the control of), `lead` (an Estimate: y of that setting minus y of the control; None if the setting is not
    among `runs`), `method`, `model`, `text` and `link`."""
    controls = runs[runs["control"] != ""]
    table = front.settings(controls, x, y) if len(controls) else _empty(runs, x, y)
    columns = ["control", "of", "method", "model", "link"]
    table = table.join(controls.drop_duplicates("setting").set_index("setting")[columns])
    table = table.sort_values("control", key=lambda kinds: kinds.map([*KINDS].index), kind="stable")
    table = table.sort_values("of", kind="stable")
    values = dict(iter(runs.groupby("setting", sort=False)[y.name]))
    leads = [
        difference(values[of], values[name]) if of in values else None
        for name, of in zip(table.index, table["of"], strict=True)
    ]
    table["lead"] = np.array([*leads, None], dtype=object)[:-1]
    table["text"] = [_hover(str(name), row, x, y) for name, row in table.iterrows()]
    return table


def _empty(runs: pandas.DataFrame, x: Axis, y: Axis) -> pandas.DataFrame:
    return front.settings(runs.iloc[:1], x, y).iloc[:0]


def verdict(lead: Estimate) -> str:
    """Return whether the difference between a point and its control is significant, or undefined for one seed."""
    if not lead.low <= lead.high:
        return ONE_SEED
    return SIGNIFICANT if lead.low > 0 or lead.high < 0 else NOT_SIGNIFICANT


def signed(lead: Estimate) -> str:
    """Return a difference with its sign and half interval: +1.20 ± 0.31."""
    half = "" if verdict(lead) == ONE_SEED else f" ± {number(lead.half_width)}"
    return f"{'-' if lead.mean < 0 else '+'}{number(abs(lead.mean))}{half}"


def sentences(table: pandas.DataFrame, y: Axis) -> list[str]:
    """Return a sentence for each setting with controls: its lead over each of them."""
    lines = []
    for point, group in table[table["of"] != ""].groupby("of", sort=False):
        leads = [f"{row['control']} {signed(row['lead'])} ({verdict(row['lead'])})" for _, row in group.iterrows()]
        lines.append(f"{point} against its controls, {y.name}: {', '.join(leads)}.")
    return lines


def _hover(name: str, row: Any, x: Axis, y: Axis) -> str:
    lines = [f"<b>{escape(name)}</b>", f"a control: {KINDS[row['control']]}"]
    lines += [f"{y.title}: {spread(row, 'y')}", f"{x.title}: {spread(row, 'x')}"]
    if row["lead"] is not None:
        lines.append(f"{escape(row['of'])} minus this: {signed(row['lead'])}, {verdict(row['lead'])}")
    return "<br>".join([*lines, "click: its runs"])
