"""The front as an interactive figure: settings filled, with intervals; published rows hollow; controls as strokes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from paredown.core.formatting import si
from paredown.frontier.axes import Axis, Budget
from paredown.frontier.front import bars, own_range, staircase
from paredown.frontier.plots import style
from paredown.frontier.seeds import DOMINATED, ON_FRONT

if TYPE_CHECKING:
    import pandas

SIZES = {ON_FRONT: 15, DOMINATED: 8}  # marker sizes show the state without colour
UNDECIDED_SIZE = 11
STROKES = {"random": "x-thin", "uniform": "cross-thin", "dense": "y-down"}  # markers of controls by kind
GREY, CLEAR = "#555555", "rgba(0,0,0,0)"
LOG_FROM = 8.0  # ratio of largest to smallest x from which the axis is logarithmic
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
    """Draw the front as a plotly figure. `points` is the table of `front.settings` with the columns `method`, `text`
    (shown on hover) and `link` (opened by a click); `published` has `x`, `y`, `method`, `text` and `mark`; `controls`
    has the columns of `points`, the kind `control` and `of`, the point that it is the control of."""
    from plotly import graph_objects

    plot = graph_objects.Figure()
    border = staircase(points[["x", "y"]].to_numpy(float), x, y)
    line = {"color": "#555555", "width": 1.5, "dash": "dot"}
    steps = {"x": [a for a, _ in border], "y": [b for _, b in border], "line": line, "hoverinfo": "skip"}
    plot.add_trace(graph_objects.Scatter(mode="lines", name="front of the means", **steps))
    for index, method in enumerate(methods(points, published)):
        ours, theirs = points[points["method"] == method], published[published["method"] == method]
        if len(theirs):
            plot.add_trace(graph_objects.Scatter(**_published(theirs, method, index)))
        if len(ours):
            plot.add_trace(graph_objects.Scatter(**_settings(ours, method, index, x, y)))
    if controls is not None:
        _controls(plot, points, controls, methods(points, published))
    _annotate(plot, points)
    for bound in (bound for bound in bounds if bound.axis in (x, y)):
        add = plot.add_vline if bound.axis == x else plot.add_hline
        add(bound.bound, line={"color": "#888888", "dash": "dash"}, annotation_text=str(bound))
    log = log_axis(points, published)
    across, up = view(points, controls, x, y, log)
    if log:
        across = math.log10(across[0]), math.log10(across[1])
    plot.update_layout(
        xaxis={"title": x.title, "range": across} | (_log_axis(points, published) if log else {}),
        yaxis={"title": y.title, "range": up},
        updatemenus=[_views(across, up)] if len(published) else [],
        template="plotly_white",
        legend={"title": "method"},
        hoverlabel={"align": "left"},
        margin={"t": 50},
        height=560,
    )
    return plot


def view(
    points: pandas.DataFrame, controls: pandas.DataFrame | None, x: Axis, y: Axis, log: bool
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the ranges of both axes that show all `points` and `controls`, whatever is published."""
    import pandas

    shown = points if controls is None or controls.empty else pandas.concat([points, controls])
    return own_range(shown, "x", x, log), own_range(shown, "y", y, log=False)


def _views(across: tuple[float, float], up: tuple[float, float]) -> dict[str, Any]:
    """Return the buttons that show the range of one's points, and that of all, published ones included."""
    ours = {"xaxis.range": across, "yaxis.range": up}
    every = {"xaxis.autorange": True, "yaxis.autorange": True}
    choices = (("these runs", ours), ("published rows too", every))
    buttons = [{"label": label, "method": "relayout", "args": [change]} for label, change in choices]
    place = {"x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"}
    return {"type": "buttons", "direction": "left", "buttons": buttons} | place


def methods(points: pandas.DataFrame, published: pandas.DataFrame) -> list[str]:
    """Return the methods in drawing order: those of `points` first, so that published rows change no style."""
    return list(dict.fromkeys([*sorted(set(points["method"])), *sorted(set(published["method"]))]))


def log_axis(points: pandas.DataFrame, published: pandas.DataFrame) -> bool:
    """Return whether x is positive and spans a ratio of at least LOG_FROM."""
    values = [*points["x"], *published["x"]]
    return min(values) > 0 and max(values) / min(values) >= LOG_FROM


def ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten from below `low` to above `high`."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [digit * 10.0**power for power in powers for digit in (1, 2, 5)]


def page(figure: Any) -> str:
    """Return `figure` as one HTML file that opens offline."""
    return str(figure.to_html(include_plotlyjs=True, full_html=True, post_script=OPEN_LINK))


def part(figure: Any) -> str:
    """Return `figure` as an HTML fragment of transparent ground for a page that includes plotly.js, and says what a
    click on a point does."""
    figure.update_layout(paper_bgcolor=CLEAR, plot_bgcolor=CLEAR, modebar={"bgcolor": CLEAR, "color": GREY})
    config = {"responsive": True, "displaylogo": False}
    return str(figure.to_html(include_plotlyjs=False, full_html=False, config=config))


def _log_axis(points: pandas.DataFrame, published: pandas.DataFrame) -> dict[str, Any]:
    values = [*points["x"], *published["x"]]
    places = ticks(min(values), max(values))
    return {"type": "log", "tickvals": places, "ticktext": [si(place) for place in places]}


def _settings(rows: pandas.DataFrame, method: str, index: int, x: Axis, y: Axis) -> dict[str, Any]:
    colour, symbol = style(index)
    sizes = [SIZES.get(state, UNDECIDED_SIZE) for state in rows["state"]]
    rims = [2 if state == ON_FRONT else 0.5 for state in rows["state"]]
    marker = {"color": colour, "symbol": symbol, "size": sizes, "opacity": 1, "line": {"color": "black", "width": rims}}
    hover = {"hovertext": rows["text"], "hoverinfo": "text", "customdata": rows["link"]}
    intervals = {f"error_{name}": _bars(rows, name, drawn, colour) for name, drawn in (("x", x), ("y", y))}
    return {"mode": "markers", "name": method, "x": rows["x"], "y": rows["y"], "marker": marker} | hover | intervals


def _bars(rows: pandas.DataFrame, name: str, drawn: Axis, colour: str) -> dict[str, Any]:
    below, above = bars(rows, name, drawn)
    lengths = {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
    return lengths | {"color": colour, "thickness": 1.2, "visible": any(below) or any(above)}


def _published(theirs: pandas.DataFrame, method: str, index: int) -> dict[str, Any]:
    colour, symbol = style(index)
    marker = {"color": colour, "symbol": f"{symbol}-open", "size": 9, "line": {"width": 1.5}}
    doubts = ["?" if mark else "" for mark in theirs["mark"]]
    text = {"text": doubts, "textposition": "top right", "hovertext": theirs["text"], "hoverinfo": "text"}
    name = f"{method}, published"
    return {"mode": "markers+text", "name": name, "x": theirs["x"], "y": theirs["y"], "marker": marker} | text


def tethers(points: pandas.DataFrame, controls: pandas.DataFrame, method: str) -> list[tuple[Any, Any]]:
    """Return the coordinates (x, y) of each control of `method` and of its point, for points that are drawn."""
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
        for kind, rows in controls[controls["method"] == method].groupby("control", sort=False):
            hover = {"hovertext": rows["text"], "hoverinfo": "text", "customdata": rows["link"], "showlegend": False}
            marker = _stroke(str(kind), colour)  # no error bars: they would hide the strokes and the point's bars
            plot.add_trace(Scatter(x=rows["x"], y=rows["y"], mode="markers", marker=marker, **hover))
    for kind in dict.fromkeys(controls["control"]):
        named = {"name": f"control: {kind}", "marker": _stroke(kind, GREY), "mode": "markers"}
        plot.add_trace(Scatter(x=[None], y=[None], **named))


def _stroke(kind: str, colour: str) -> dict[str, Any]:
    return {"symbol": STROKES[kind], "size": 11, "line": {"color": colour, "width": 2}}


def _annotate(plot: Any, points: pandas.DataFrame) -> None:
    """Label the knee, as a text trace because plotly misplaces annotations on a log axis."""
    from plotly import graph_objects

    bend = points[points["knee"]]
    label = {"text": ["&nbsp;&nbsp;knee"] * len(bend), "textposition": "bottom right", "mode": "text"}
    plot.add_trace(graph_objects.Scatter(x=bend["x"], y=bend["y"], showlegend=False, hoverinfo="skip", **label))
