"""The leaderboard's picture: accuracy against each cost, one colour and mark a method, which is named beside the axes:
a dotted line joins its name and its best point. A line joins the dense networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paredown.core.formatting import si
from paredown.frontier.naming import LINE, Named, write_names
from paredown.frontier.picture import MARKERS
from paredown.frontier.plots import style
from paredown.report.leaderboard import DENSE, timed_alike

if TYPE_CHECKING:
    import pandas

PANELS = {
    "macs": "multiply-adds per image",
    "ms_b1": "latency of one image (ms, one thread)",
    "ms_b32": "latency of 32 images (ms, one thread)",
    "bytes": "bytes, zeros left out",
    "seen": "images seen: training, searches, scoring",
}
WIDTH, DOTS = 5.2, 160  # inches, and their dots: letters of 9 points are 10 pixels high in a picture of 400
FRAME, LOW = 1.0, 2.4  # inches of height of a panel beside its axes, and of the axes at least
FULL = 100.0  # percent
LOG_FROM = 1.5  # ratio of the largest to the smallest cost from which the axis is logarithmic
SHARE = 0.5  # of the best accuracy, below which a setting would squeeze all others
WIDE = 8.0  # ratio from which 1, 2 and 5 are ticks enough


def save(
    table: pandas.DataFrame, half_width: Mapping[str, float], path: Path, costs: Sequence[str] = tuple(PANELS)
) -> None:
    """Write the picture of the leaderboard's `table` to `path` as a PNG."""
    draw(table, half_width, costs).savefig(path)


def draw(table: pandas.DataFrame, half_width: Mapping[str, float], costs: Sequence[str] = tuple(PANELS)) -> Any:
    """Return the picture of the leaderboard's `table`, a panel of each of `costs` below the other; panels of costs that
    no run has are left out. A setting without a `half_width`, as it is not ranked, has no interval."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    table = timed_alike(table).assign(seen=table["images"] + table["other_images"])
    own = table[table["control"] == ""]
    panels = {name: PANELS[name] for name in costs if own[name].notna().any()}
    means = own.groupby("setting", sort=False).agg({"method": "first", "top1": "mean"} | dict.fromkeys(panels, "mean"))
    means = means[means["top1"] >= means["top1"].max() * SHARE]
    methods = sorted(set(means["method"]))
    height = FRAME + max(LOW, LINE * len(methods))
    picture = Figure(figsize=(WIDTH, height * len(panels)), dpi=DOTS, layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots(len(panels), 1, squeeze=False).flatten()
    for place, (name, title) in zip(axes, panels.items(), strict=True):
        _panel(place, means[means[name].notna()], half_width, methods, name, title)
    return picture


def _panel(
    axes: Any, means: pandas.DataFrame, half_width: Mapping[str, float], methods: list[str], name: str, title: str
) -> None:
    for method, rows in means.sort_values(name).groupby("method"):
        colour, symbol = style(methods.index(str(method)))
        half = np.array([half_width.get(str(setting), 0.0) for setting in rows.index])
        reach = np.minimum(half, rows["top1"]), np.minimum(half, FULL - rows["top1"])
        bars = {"yerr": reach, "ls": "", "lw": 0.8, "capsize": 2}
        if method == DENSE:
            axes.plot(rows[name], rows["top1"], color=colour, lw=0.8, zorder=1)
        axes.errorbar(rows[name], rows["top1"], marker=MARKERS[symbol], markersize=5, color=colour, zorder=3, **bars)
    _scale(axes, means[name])
    axes.set_xlabel(title, fontsize=10)
    axes.set_ylabel("top-1 (%)", fontsize=10)
    axes.tick_params(labelsize=9)
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, FULL))
    write_names(axes, _best(means, methods, name), max(LOW, LINE * len(methods)))


def _scale(axes: Any, costs: pandas.Series[float]) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    ratio = costs.max() / costs.min() if costs.min() > 0 else 0
    if ratio >= LOG_FROM:
        axes.set_xscale("log")
        subs = (1.0, 2.0, 5.0) if ratio >= WIDE else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: si(value))


def _best(means: pandas.DataFrame, methods: list[str], name: str) -> list[Named]:
    """Return the point of the highest mean of each method."""
    rows = [row for _, row in means.sort_values("top1", ascending=False).drop_duplicates("method").iterrows()]
    looks = [style(methods.index(row["method"])) for row in rows]
    return [
        Named(row["method"], row[name], row["top1"], colour, MARKERS[symbol])
        for row, (colour, symbol) in zip(rows, looks, strict=True)
    ]
