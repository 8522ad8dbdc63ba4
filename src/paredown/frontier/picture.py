"""The front as a PNG for papers and Markdown pages. Drawn by matplotlib, because plotly's export needs Chrome, which
cluster nodes lack."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paredown.core.formatting import si
from paredown.frontier.axes import Axis, Budget
from paredown.frontier.figure import GREY, SIZES, UNDECIDED_SIZE, log_axis, methods, tethers, view
from paredown.frontier.front import bars, staircase
from paredown.frontier.naming import LINE, Named, write_names
from paredown.frontier.plots import style
from paredown.frontier.seeds import ON_FRONT

if TYPE_CHECKING:
    import pandas

STROKES = {"random": "x", "uniform": "+", "dense": "1"}  # as figure.STROKES
MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P", "star": "*"}
INSET = (1.06, 0.0, 0.28, 0.24)  # left, bottom, width, height in fractions of the axes: below the names
NAMES_FROM = 0.36  # of the height of the axes, where there is an inset with its title below
# 832 x 520 pixels or, with many methods, higher: MLflow does not scale images, and its page is 850 pixels wide
WIDTH, HEIGHT, DOTS = 6.4, 4.0, 130
FRAME = 1.05  # inches of height beside the axes


def save(
    points: pandas.DataFrame,
    published: pandas.DataFrame,
    x: Axis,
    y: Axis,
    path: Path,
    bounds: Sequence[Budget] = (),
    controls: pandas.DataFrame | None = None,
) -> None:
    """Write the figure of `figure.draw`, which takes the same arguments, to `path` as a PNG of 832 x 520, or higher
    where there are more methods than names fit beside it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    across, up = view(points, controls, x, y, log_axis(points, published))
    least = NAMES_FROM if _outside(published, across, up) else 0.0
    room = max(HEIGHT - FRAME, LINE * points["method"].nunique() / (1 - least))
    within = ConstrainedLayoutEngine(rect=(0, 0, 0.98, 1))  # else the inset's frame is cut
    picture = Figure(figsize=(WIDTH, FRAME + room), dpi=DOTS, layout=within)
    FigureCanvasAgg(picture)
    axes = picture.add_subplot()
    border = staircase(points[["x", "y"]].to_numpy(float), x, y)
    axes.plot(*zip(*border, strict=True), ":", color="#555555", lw=1.2, label="front of the means", zorder=1)
    for index, method in enumerate(methods(points, published)):
        _published(axes, published[published["method"] == method], method, index)
        _settings(axes, points[points["method"] == method], index, x, y)
    if controls is not None:
        _controls(axes, points, controls, methods(points, published))
    for _, bend in points[points["knee"]].iterrows():
        axes.annotate("knee", (bend["x"], bend["y"]), (8, -12), textcoords="offset points", fontsize=8, zorder=5)
    for bound in (bound for bound in bounds if bound.axis in (x, y)):
        (axes.axvline if bound.axis == x else axes.axhline)(bound.bound, ls="--", color="#888888", lw=1)
    _finish(axes, points, published, x, y)
    axes.set(xlim=across, ylim=up)
    write_names(axes, _best(points, published, y), room, least)
    if least:
        _whole(axes, points, published)
    picture.savefig(path)


def _best(points: pandas.DataFrame, published: pandas.DataFrame, y: Axis) -> list[Named]:
    """Return the best point of each method."""
    found = []
    for index, method in enumerate(methods(points, published)):
        rows = points[points["method"] == method]
        if len(rows):
            colour, symbol = style(index)
            best = rows.loc[rows["y"].idxmax() if y.maximize else rows["y"].idxmin()]
            found.append(Named(method, best["x"], best["y"], colour, MARKERS[symbol]))
    return found


def _outside(published: pandas.DataFrame, across: tuple[float, float], up: tuple[float, float]) -> bool:
    inside = published["x"].between(*across) & published["y"].between(*up)
    return not bool(inside.all())


def _whole(axes: Any, points: pandas.DataFrame, published: pandas.DataFrame) -> None:
    """Draw a small map of all points, published ones hollow, with the range of the large axes as a box."""
    small = axes.inset_axes(INSET)
    for index, method in enumerate(methods(points, published)):
        colour, _ = style(index)
        theirs, ours = (table[table["method"] == method] for table in (published, points))
        small.scatter(theirs["x"], theirs["y"], s=10, facecolors="none", edgecolors=colour, linewidths=0.7)
        small.scatter(ours["x"], ours["y"], s=8, color=colour, linewidths=0)
    if log_axis(points, published):
        small.set_xscale("log")
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    small.plot([left, right, right, left, left], [low, low, high, high, low], color=GREY, lw=0.8)
    small.set_title("with published rows", fontsize=7)
    small.tick_params(labelsize=6, which="both", labelbottom=False)


def _settings(axes: Any, rows: pandas.DataFrame, index: int, x: Axis, y: Axis) -> None:
    colour, symbol = style(index)
    lengths = [np.array(bars(rows, name, drawn)) for name, drawn in (("x", x), ("y", y))]  # below, above
    wide_there, tall_there = (np.atleast_1d(length.any(axis=0)) for length in lengths)
    looks = list(zip(rows["state"], wide_there, tall_there, strict=True))
    for look in dict.fromkeys(looks):  # one artist for all that look alike: there may be thousands
        at = [place for place, other in enumerate(looks) if other == look]
        state, has_wide, has_tall = look
        wide, tall = (
            length[:, at] if drawn else None for length, drawn in zip(lengths, (has_wide, has_tall), strict=True)
        )
        size = SIZES.get(state, UNDECIDED_SIZE) * 0.65
        rim = {"markeredgecolor": "black", "markeredgewidth": 1.4 if state == ON_FRONT else 0.4}
        marker = {"marker": MARKERS[symbol], "markersize": size, "color": colour, "ls": "", "capsize": 2, "lw": 1} | rim
        places = (rows[name].to_numpy(float)[at] for name in ("x", "y"))
        axes.errorbar(*places, xerr=wide, yerr=tall, zorder=3, **marker)


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

    if log_axis(points, published):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda value, _: si(value))
    axes.set(xlabel=x.title, ylabel=y.title)
    axes.grid(color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.figure.legend(fontsize=8, frameon=False, loc="outside lower left", ncols=3)
