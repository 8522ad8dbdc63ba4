"""The front as a PNG, for papers and pages that show no HTML. Drawn by matplotlib: plotly's own needs a Chrome, which
a cluster's node does not have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.figures import style
from paredown.frontier.axes import Axis, Budget
from paredown.frontier.figure import GREY, MIDDLE, SIZES, log_axis, methods, short, tethers
from paredown.frontier.front import staircase
from paredown.frontier.seeds import ON_FRONT

if TYPE_CHECKING:
    import pandas

STROKES = {"random": "x", "uniform": "+", "dense": "1"}  # as figure.STROKES
MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P", "star": "*"}
INCHES, DOTS = (6.4, 4.0), 130  # MLflow shows pictures in their own size, and its page has 850 pixels for them


def save(
    points: pandas.DataFrame,
    published: pandas.DataFrame,
    x: Axis,
    y: Axis,
    path: Path,
    bounds: Sequence[Budget] = (),
    controls: pandas.DataFrame | None = None,
) -> None:
    """Write what `figure.draw` shows, with the same arguments, as a PNG of 832 x 520."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=INCHES, dpi=DOTS, layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    border = staircase(points[["x", "y"]].to_numpy(float), x, y)
    axes.plot(*zip(*border, strict=True), ":", color="#555555", lw=1.2, label="front of the means", zorder=1)
    for index, method in enumerate(methods(points, published)):
        _published(axes, published[published["method"] == method], method, index)
        _own(axes, points[points["method"] == method], method, index)
    if controls is not None:
        _controls(axes, points, controls, methods(points, published))
    for _, bend in points[points["knee"]].iterrows():
        axes.annotate("knee", (bend["x"], bend["y"]), (8, -12), textcoords="offset points", fontsize=8)
    for bound in (bound for bound in bounds if bound.axis in (x, y)):
        (axes.axvline if bound.axis == x else axes.axhline)(bound.bound, ls="--", color="#888888", lw=1)
    _finish(axes, points, published, x, y)
    picture.savefig(path)


def _own(axes: Any, own: pandas.DataFrame, method: str, index: int) -> None:
    colour, symbol = style(index)
    for row, (_, point) in enumerate(own.iterrows()):
        halves = (point[f"{name}_high"] - point[name] for name in "xy")
        wide, tall = ([half] if half > 0 else None for half in halves)
        size = SIZES.get(point["state"], MIDDLE) * 0.65
        rim = {"markeredgecolor": "black", "markeredgewidth": 1.4 if point["state"] == ON_FRONT else 0.4}
        marker = {"marker": MARKERS[symbol], "markersize": size, "color": colour, "ls": "", "capsize": 2, "lw": 1} | rim
        label = None if row else method
        axes.errorbar([point["x"]], [point["y"]], xerr=wide, yerr=tall, label=label, zorder=3, **marker)


def _controls(axes: Any, points: pandas.DataFrame, controls: pandas.DataFrame, order: list[str]) -> None:
    for method in dict.fromkeys(controls["method"]):
        colour, _ = style(order.index(method)) if method in order else (GREY, "")
        for pair in tethers(points, controls, method):
            axes.plot(*zip(*pair, strict=True), "--", color=colour, lw=0.8, zorder=1)
        for _, row in controls[controls["method"] == method].iterrows():
            axes.plot([row["x"]], [row["y"]], color=colour, ls="", zorder=4, **_stroke(row["control"]))
    for kind in dict.fromkeys(controls["control"]):
        axes.plot([], [], color=GREY, ls="", label=f"control: {kind}", **_stroke(kind))


def _stroke(kind: str) -> dict[str, Any]:
    return {"marker": STROKES[kind], "markersize": 8, "markeredgewidth": 1.6}


def _published(axes: Any, theirs: pandas.DataFrame, method: str, index: int) -> None:
    if theirs.empty:
        return
    colour, symbol = style(index)
    hollow = {"facecolors": "none", "edgecolors": colour, "marker": MARKERS[symbol], "s": 34, "linewidths": 1.2}
    axes.scatter(theirs["x"], theirs["y"], label=f"{method}, published", zorder=2, **hollow)
    for _, row in theirs[theirs["mark"] != ""].iterrows():
        axes.annotate("?", (row["x"], row["y"]), (3, 3), textcoords="offset points", fontsize=7)


def _finish(axes: Any, points: pandas.DataFrame, published: pandas.DataFrame, x: Axis, y: Axis) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    if log_axis(points, published, x):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda value, _: short(value))
    axes.set(xlabel=x.title, ylabel=y.title)
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
