"""Plotly figures in one style: legible in print, and without telling colours apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Okabe and Ito's palette: told apart with any colour vision; the symbols and dashes do it without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
DASHES = ("solid", "dash", "dot")


def style(index: int) -> tuple[str, str]:
    """Colour and symbol of the `index`-th thing drawn: 42 pairs before one comes again."""
    return COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)]


def per_layer(curves: Mapping[str, Mapping[str, float]], title: str, unit: str, log: bool = False) -> Any:
    """A figure with one line per label of `curves` over the layers, in their order."""
    from plotly import graph_objects

    plot = graph_objects.Figure()
    for index, (label, values) in enumerate(curves.items()):
        colour, symbol = style(index)
        marker = {"color": colour, "symbol": symbol, "size": 8}
        line = {"color": colour, "dash": DASHES[index % len(DASHES)]}
        trace = {"x": list(values), "y": list(values.values()), "name": label, "marker": marker, "line": line}
        plot.add_trace(graph_objects.Scatter(mode="lines+markers", **trace))
    axis = {"title": unit} | ({"type": "log"} if log else {"rangemode": "tozero"})
    plot.update_layout(title=title, yaxis=axis, xaxis={"title": "layer"}, template="plotly_white", showlegend=True)
    return plot
