"""The controls beside the points of a front: what each costs and reaches, and what the point has over it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from paredown.frontier import front
from paredown.frontier.axes import Axis
from paredown.frontier.seeds import Estimate, difference
from paredown.report.words import number, spread

if TYPE_CHECKING:
    import pandas

KINDS = {
    "random": "as many weights (drawn at random) or the same rank (factors started afresh) in each layer",
    "uniform": "one density or one fraction of the rank in every layer",
    "dense": "a dense network of fewer channels",
}
APART, NOT_APART, ONE_SEED = "told apart", "not told apart", "one seed, no interval"


def controls(runs: pandas.DataFrame, x: Axis, y: Axis) -> pandas.DataFrame:
    """One row per control among `runs`, as `front.settings` gives them, with `control` (its kind), `of` (the setting
    that it stands beside), `lead` (an Estimate: that setting's y minus its own; None where the setting is not there),
    `method`, `model`, `text` and `link`."""
    own = runs[runs["control"] != ""]
    table = front.settings(own, x, y) if len(own) else _empty(runs, x, y)
    columns = ["control", "of", "method", "model", "link"]
    table = table.join(own.drop_duplicates("setting").set_index("setting")[columns])
    table = table.sort_values("control", key=lambda kinds: kinds.map([*KINDS].index), kind="stable")
    table = table.sort_values("of", kind="stable")
    leads = [_lead(runs, name, row["of"], y) for name, row in table.iterrows()]
    table["lead"] = np.array([*leads, None], dtype=object)[:-1]
    table["text"] = [_hover(str(name), row, x, y) for name, row in table.iterrows()]
    return table


def _empty(runs: pandas.DataFrame, x: Axis, y: Axis) -> pandas.DataFrame:
    return front.settings(runs, x, y).iloc[:0]


def _lead(runs: pandas.DataFrame, control: Any, point: str, y: Axis) -> Estimate | None:
    own, theirs = (runs.loc[runs["setting"] == name, y.name].to_numpy(float) for name in (point, control))
    return difference(own, theirs) if len(own) else None


def verdict(lead: Estimate) -> str:
    """Whether the seeds tell a point from its control."""
    if not lead.low <= lead.high:
        return ONE_SEED
    return APART if lead.low > 0 or lead.high < 0 else NOT_APART


def signed(lead: Estimate) -> str:
    """A difference with its half interval: +1.20 ± 0.31."""
    half = "" if verdict(lead) == ONE_SEED else f" ± {number(lead.half_width)}"
    return f"{'-' if lead.mean < 0 else '+'}{number(abs(lead.mean))}{half}"


def sentences(table: pandas.DataFrame, y: Axis) -> list[str]:
    """For each setting that has controls, what it has over them."""
    lines = []
    for point, group in table[table["of"] != ""].groupby("of", sort=False):
        told = [f"{row['control']} {signed(row['lead'])} ({verdict(row['lead'])})" for _, row in group.iterrows()]
        lines.append(f"{point} against its controls, {y.name}: {', '.join(told)}.")
    return lines


def _hover(name: str, row: Any, x: Axis, y: Axis) -> str:
    lines = [f"<b>{name}</b>", f"a control: {KINDS[row['control']]}"]
    lines += [f"{y.title}: {spread(row, 'y')}", f"{x.title}: {spread(row, 'x')}"]
    if row["lead"] is not None:
        lines.append(f"{row['of']} minus this: {signed(row['lead'])}, {verdict(row['lead'])}")
    return "<br>".join([*lines, "click: the run in MLflow"])
