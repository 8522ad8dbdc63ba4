"""From runs to settings: the same experiment under several seeds is one point with intervals and a state."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from paredown.frontier.axes import Axis, Budget
from paredown.frontier.dominance import knee, pareto
from paredown.frontier.seeds import Estimate, difference, estimate, hypervolume_estimate, states

if TYPE_CHECKING:
    import pandas


def settings(runs: pandas.DataFrame, x: Axis, y: Axis) -> pandas.DataFrame:
    """One row per value of the column `setting` of `runs`, in the order of x, indexed by it. `runs` has a row per run
    and a column per metric, none of them NaN in x and y.

    Columns: `seeds` (how many), `x`, `x_low`, `x_high`, `y`, `y_low`, `y_high` (NaN for one seed), `state`, and of the
    means `front` (on it or not) and `knee` (one at most).
    """
    import pandas

    groups = {name: group[[x.name, y.name]].to_numpy(float) for name, group in runs.groupby("setting", sort=False)}
    table = pandas.DataFrame([_point(values) for values in groups.values()], index=pandas.Index(groups, name="setting"))
    table["state"] = states(list(groups.values()), (x.maximize, y.maximize), (x.exact, y.exact))
    means, directions = table[["x", "y"]].to_numpy(), (x.maximize, y.maximize)
    table["front"] = pareto(means, directions)
    bend = knee(means, directions)
    table["knee"] = [row == bend for row in range(len(table))]
    return table.sort_values(["x", "y"], kind="stable")


def _point(values: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"seeds": len(values)}
    for name, column in zip("xy", values.T, strict=True):
        found = estimate(column)
        row |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
    return row


def best(runs: pandas.DataFrame, y: Axis, bounds: Sequence[Budget]) -> tuple[str, list[str]] | None:
    """The setting best in y on average among those whose means keep `bounds`, and those of them that its y cannot be
    told apart from (Welch's interval of the difference holds 0, or is not given for one seed). None where none does."""
    names = list(dict.fromkeys([y.name, *(bound.axis.name for bound in bounds)]))
    means = runs.groupby("setting", sort=False)[names].mean()
    kept = means[[all(bound.holds(row[bound.axis.name]) for bound in bounds) for _, row in means.iterrows()]]
    if kept.empty:
        return None
    order = kept[y.name].sort_values(ascending=not y.maximize, kind="stable")
    first, *others = order.index
    own = _values(runs, first, y)
    alike = [name for name in others if not _apart(difference(own, _values(runs, name, y)))]
    return str(first), [str(name) for name in alike]


def _values(runs: pandas.DataFrame, setting: Any, y: Axis) -> Any:
    return runs.loc[runs["setting"] == setting, y.name].to_numpy(float)


def _apart(lead: Estimate) -> bool:
    return lead.low > 0 or lead.high < 0


def dominated_area(
    runs: pandas.DataFrame, x: Axis, y: Axis, reference: tuple[float, float], ideal: tuple[float, float]
) -> Estimate | None:
    """The hypervolume of the settings in `runs` as a share of the box between `reference` and `ideal`, over the seeds
    that all of them have. None where there is no such seed or no such box."""
    box = abs((reference[0] - ideal[0]) * (reference[1] - ideal[1]))
    wanted = runs["setting"].nunique()
    by_seed = [group for _, group in runs.groupby("seed") if group["setting"].nunique() == wanted]
    if not box or not by_seed:
        return None
    points = [group[[x.name, y.name]].to_numpy(float) for group in by_seed]
    found = hypervolume_estimate(points, reference, (x.maximize, y.maximize))
    return Estimate(found.mean / box, found.low / box, found.high / box, found.seeds)


def staircase(points: Any, x: Axis, y: Axis) -> list[tuple[float, float]]:
    """The border of what the front of `points` (n, 2) dominates: the front from low to high x, corners between."""
    front = sorted({(float(a), float(b)) for a, b in points[pareto(points, (x.maximize, y.maximize))]})
    border = front[:1]
    for before, after in pairwise(front):
        border += [(before[0], after[1]) if x.maximize else (after[0], before[1]), after]
    return border
