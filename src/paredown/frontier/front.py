"""Settings of a front: the runs of one experiment under several seeds as one point with intervals and a state."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from paredown.frontier.axes import Axis, Budget
from paredown.frontier.dominance import knee, level, pareto
from paredown.frontier.seeds import Estimate, difference, estimate, hypervolume_estimate, mean, states

if TYPE_CHECKING:
    import pandas


MARGIN = 0.08  # beside the outermost points, as a fraction of the range
SYMBOL = 0.03  # of a range, beyond what the metric can be, for the symbol of a point there


def settings(runs: pandas.DataFrame, x: Axis, y: Axis) -> pandas.DataFrame:
    """Summarise `runs` (a row per run, a column per metric, no NaN in x and y) by their column `setting`, sorted by x.

    Columns: `seeds` (their number), `x`, `x_low`, `x_high`, `y`, `y_low`, `y_high` (means and intervals, NaN for one
    seed), `state`, and for the means `front` (on it or not) and `knee` (at most one).
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
    """Return the setting with the best mean y among those whose means are within `bounds`, and those whose y is not
    significantly different (Welch's interval of the difference includes 0 or, with one seed, does not exist). None if
    no setting is within `bounds`. A bound is on the mean of the seeds that have its metric, as a latency that was
    measured once; without any it is not kept."""
    names = list(dict.fromkeys([y.name, *(bound.axis.name for bound in bounds)]))
    means = runs.groupby("setting", sort=False)[names].agg(lambda values: mean(values.dropna()))
    kept = means[[all(bound.holds(row[bound.axis.name]) for bound in bounds) for row in means.to_dict("records")]]
    if kept.empty:
        return None
    order = kept.assign(rank=level(kept[y.name])).sort_values("rank", ascending=not y.maximize, kind="stable")
    first, *others = order.index
    values = dict(iter(runs.groupby("setting", sort=False)[y.name]))
    alike = [name for name in others if not _significant(difference(values[first], values[name]))]
    return str(first), [str(name) for name in alike]


def _significant(lead: Estimate) -> bool:
    return lead.low > 0 or lead.high < 0


def dominated_area(
    runs: pandas.DataFrame, x: Axis, y: Axis, reference: tuple[float, float], ideal: tuple[float, float]
) -> Estimate | None:
    """Estimate the hypervolume of the settings in `runs` as a fraction of the box between `reference` and `ideal`, over
    the seeds that every setting has. None if there is no such seed or the box is empty."""
    box = abs((reference[0] - ideal[0]) * (reference[1] - ideal[1]))
    wanted = runs["setting"].nunique()
    by_seed = [group for _, group in runs.groupby("seed") if group["setting"].nunique() == wanted]
    if not box or not by_seed:
        return None
    points = [group[[x.name, y.name]].to_numpy(float) for group in by_seed]
    found = hypervolume_estimate(points, reference, (x.maximize, y.maximize))
    return Estimate(found.mean / box, found.low / box, found.high / box, found.seeds)


def bars(points: pandas.DataFrame, name: str, drawn: Axis) -> tuple[list[float], list[float]]:
    """Return how far the interval of column `name` (x or y) reaches below and above each mean, within what the metric
    can be; 0 for one seed."""
    least, most = drawn.limits
    low = points[f"{name}_low"].clip(lower=least).fillna(points[name])
    high = points[f"{name}_high"].clip(upper=most).fillna(points[name])
    return list((points[name] - low).clip(lower=0)), list((high - points[name]).clip(lower=0))


def own_range(points: pandas.DataFrame, name: str, drawn: Axis, log: bool) -> tuple[float, float]:
    """Return the range of column `name` (x or y) over `points` with their intervals and a margin, within what the
    metric can be, so that what others published does not move them into a corner. `log`: all values are above 0, and
    the range begins at the least value if an interval ends at 0."""
    below, above = bars(points, name, drawn)
    low, high = min(points[name] - below), max(points[name] + above)
    if log:
        low = low if low > 0 else min(points[name])
        factor = (high / low) ** MARGIN if high > low else 1 + MARGIN
        return low / factor, high * factor
    margin = MARGIN * (high - low) or MARGIN * abs(high) or MARGIN
    low, high = low - margin, high + margin
    least, most = drawn.limits
    room = SYMBOL * (high - low)
    return max(low, least - room), min(high, most + room)


def staircase(points: Any, x: Axis, y: Axis) -> list[tuple[float, float]]:
    """Return the border of the region dominated by the front of `points` (n, 2), by rising x, corners included."""
    front = sorted({(float(a), float(b)) for a, b in points[pareto(points, (x.maximize, y.maximize))]})
    border = front[:1]
    for before, after in pairwise(front):
        border += [(before[0], after[1]) if x.maximize else (after[0], before[1]), after]
    return border
