"""The front as an interactive page: own settings filled, with intervals; published rows hollow; controls thin."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paredown.figures import style
from paredown.frontier.axes import Axis, Budget
from paredown.frontier.front import staircase
from paredown.frontier.seeds import DOMINATED, ON_FRONT

if TYPE_CHECKING:
    import pandas

SIZES = {ON_FRONT: 15, DOMINATED: 8}  # the state without colour; what is undecided lies between
MIDDLE = 11
# controls by kind: thin strokes, and a dashed line to the point that they stand beside
STROKES = {"random": "x-thin", "uniform": "cross-thin", "dense": "y-down"}
GREY = "#555555"
WIDE = 8.0  # a ratio of largest to smallest from which a logarithmic axis helps
OPEN_LINK = """
var plot = document.getElementById('{plot_id}');
plot.on('plotly_click', function (event) {
  var link = event.points[0].customdata;
  if (link) { window.open(link, '_blank'); }
});
"""


def draw(
    points: pandas.DataFrame,
    published: pandas.DataFrame,
    x: Axis,
    y: Axis,
    bounds: Sequence[Budget] = (),
    controls: pandas.DataFrame | None = None,
) -> Any:
    """A plotly figure. `points` is as `front.settings` gives it, with `method`, `text` (to hover) and `link` besides;
    `published` has `x`, `y`, `method`, `text` and `mark`; `controls` are as `points`, with their kind `control` and
    `of`, the point that they stand beside. A click on an own point opens its link."""
    from plotly import graph_objects

    plot = graph_objects.Figure()
    border = staircase(points[["x", "y"]].to_numpy(float), x, y)
    line = {"color": "#555555", "width": 1.5, "dash": "dot"}
    steps = {"x": [a for a, _ in border], "y": [b for _, b in border], "line": line, "hoverinfo": "skip"}
    plot.add_trace(graph_objects.Scatter(mode="lines", name="front of the means", **steps))
    for index, method in enumerate(methods(points, published)):
        own, theirs = points[points["method"] == method], published[published["method"] == method]
        if len(theirs):
            plot.add_trace(graph_objects.Scatter(**_published(theirs, method, index)))
        if len(own):
            plot.add_trace(graph_objects.Scatter(**_own(own, method, index)))
    if controls is not None:
        _controls(plot, points, controls, methods(points, published))
    _annotate(plot, points)
    for bound in (bound for bound in bounds if bound.axis in (x, y)):
        add = plot.add_vline if bound.axis == x else plot.add_hline
        add(bound.bound, line={"color": "#888888", "dash": "dash"}, annotation_text=str(bound))
    plot.update_layout(
        xaxis={"title": x.title} | (_log_axis(points, published) if log_axis(points, published, x) else {}),
        yaxis={"title": y.title},
        template="plotly_white",
        legend={"title": "method"},
        hoverlabel={"align": "left"},
        margin={"t": 30},
        height=560,
    )
    return plot


def methods(points: pandas.DataFrame, published: pandas.DataFrame) -> list[str]:
    """The methods in the order they are drawn in: own ones first, so that more published rows change no style."""
    return list(dict.fromkeys([*sorted(set(points["method"])), *sorted(set(published["method"]))]))


def log_axis(points: pandas.DataFrame, published: pandas.DataFrame, x: Axis) -> bool:
    """Whether x spans so much that a logarithmic axis helps."""
    values = [*points["x"], *published["x"]]
    return min(values) > 0 and max(values) / min(values) >= WIDE


def ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten around `low` to `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [digit * 10.0**power for power in powers for digit in (1, 2, 5)]


def short(value: float) -> str:
    """A number as people write it on an axis: 320k, 1.5M, 0.25."""
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def page(figure: Any) -> str:
    """`figure` as one HTML file that needs no network."""
    return str(figure.to_html(include_plotlyjs=True, full_html=True, post_script=OPEN_LINK))


def part(figure: Any) -> str:
    """`figure` as a piece of a page that holds plotly.js already."""
    return str(figure.to_html(include_plotlyjs=False, full_html=False, post_script=OPEN_LINK))


def _log_axis(points: pandas.DataFrame, published: pandas.DataFrame) -> dict[str, Any]:
    values = [*points["x"], *published["x"]]
    places = ticks(min(values), max(values))
    return {"type": "log", "tickvals": places, "ticktext": [short(place) for place in places]}


def _own(own: pandas.DataFrame, method: str, index: int) -> dict[str, Any]:
    colour, symbol = style(index)
    sizes = [SIZES.get(state, MIDDLE) for state in own["state"]]
    rims = [2 if state == ON_FRONT else 0.5 for state in own["state"]]
    marker = {"color": colour, "symbol": symbol, "size": sizes, "opacity": 1, "line": {"color": "black", "width": rims}}
    hover = {"hovertext": own["text"], "hoverinfo": "text", "customdata": own["link"]}
    bars = {f"error_{name}": _bars(own, name, colour) for name in "xy"}
    return {"mode": "markers", "name": method, "x": own["x"], "y": own["y"], "marker": marker} | hover | bars


def _bars(own: pandas.DataFrame, name: str, colour: str) -> dict[str, Any]:
    half = (own[f"{name}_high"] - own[name]).fillna(0)
    return {"type": "data", "array": half, "color": colour, "thickness": 1.2, "visible": bool((half > 0).any())}


def _published(theirs: pandas.DataFrame, method: str, index: int) -> dict[str, Any]:
    colour, symbol = style(index)
    marker = {"color": colour, "symbol": f"{symbol}-open", "size": 9, "line": {"width": 1.5}}
    doubts = ["?" if mark else "" for mark in theirs["mark"]]
    text = {"text": doubts, "textposition": "top right", "hovertext": theirs["text"], "hoverinfo": "text"}
    name = f"{method}, published"
    return {"mode": "markers+text", "name": name, "x": theirs["x"], "y": theirs["y"], "marker": marker} | text


def tethers(points: pandas.DataFrame, controls: pandas.DataFrame, method: str) -> list[tuple[Any, Any]]:
    """The places (x, y) of each control of `method` and of its point, where that is drawn."""
    beside = controls[(controls["method"] == method) & controls["of"].isin(points.index)]
    rows = [(row, points.loc[row["of"]]) for _, row in beside.iterrows()]
    return [((row["x"], row["y"]), (point["x"], point["y"])) for row, point in rows]


def _controls(plot: Any, points: pandas.DataFrame, controls: pandas.DataFrame, order: list[str]) -> None:
    from plotly.graph_objects import Scatter

    for method in dict.fromkeys(controls["method"]):
        colour, _ = style(order.index(method)) if method in order else (GREY, "")
        line = {"color": colour, "width": 1, "dash": "dash"}
        for pair in tethers(points, controls, method):
            across, up = zip(*pair, strict=True)
            plot.add_trace(Scatter(x=across, y=up, mode="lines", line=line, showlegend=False, hoverinfo="skip"))
        for kind, own in controls[controls["method"] == method].groupby("control", sort=False):
            hover = {"hovertext": own["text"], "hoverinfo": "text", "customdata": own["link"], "showlegend": False}
            marker = _stroke(str(kind), colour)  # no bars: they would hide the strokes, and lie over the point's
            plot.add_trace(Scatter(x=own["x"], y=own["y"], mode="markers", marker=marker, **hover))
    for kind in dict.fromkeys(controls["control"]):
        named = {"name": f"control: {kind}", "marker": _stroke(kind, GREY), "mode": "markers"}
        plot.add_trace(Scatter(x=[None], y=[None], **named))


def _stroke(kind: str, colour: str) -> dict[str, Any]:
    return {"symbol": STROKES[kind], "size": 11, "line": {"color": colour, "width": 2}}


def _annotate(plot: Any, points: pandas.DataFrame) -> None:
    """Name the knee; an arrow needs no colour. On a log axis plotly places annotations only by a point's label."""
    from plotly import graph_objects

    bend = points[points["knee"]]
    label = {"text": ["&nbsp;&nbsp;knee"] * len(bend), "textposition": "bottom right", "mode": "text"}
    plot.add_trace(graph_objects.Scatter(x=bend["x"], y=bend["y"], showlegend=False, hoverinfo="skip", **label))
