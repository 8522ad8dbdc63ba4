"""Plotly figures in one style, legible in print and with any colour vision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

# Okabe and Ito's palette, distinct with any colour vision; symbols and dashes also separate curves without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
DASHES = ("solid", "dash", "dot")


def style(index: int) -> tuple[str, str]:
    """Return colour and symbol of the `index`-th curve; 42 pairs are distinct."""
    return COLOURS[index % len(COLOURS)], SYMBOLS[index % len(SYMBOLS)]


def per_layer(curves: Mapping[str, Mapping[str, float]], title: str, unit: str, log: bool = False) -> Any:
    """Draw one line per label of `curves`, each a mapping of layers to values, over the layers in their order."""
    return lines(curves, title, "layer", unit, log="y" if log else None)


def lines(
    curves: Mapping[str, Mapping[Any, float]], title: str, x: str, y: str, log: Literal["x", "y"] | None = None
) -> Any:
    """Draw one line per label of `curves`, each a mapping of x to y; `log` names the logarithmic axis."""
    plot = _empty(title, x, y)
    plot.update_layout({f"{log}axis_type": "log", f"{log}axis_exponentformat": "power"} if log else {})
    plot.update_yaxes({} if log == "y" else {"rangemode": "tozero"})
    for index, (label, values) in enumerate(curves.items()):
        plot.add_trace(_trace(label, index, list(values), list(values.values())))
    return plot


def by_layer(layers: Mapping[str, Mapping[str, Sequence[float]]], title: str, x: str, y: str) -> Any:
    """Draw one layer at a time, chosen from a menu: one line per label over the index, from 1; y is logarithmic."""
    plot, owners = _empty(title, x, y), []
    for layer, curves in layers.items():
        for index, (label, values) in enumerate(curves.items()):
            plot.add_trace(_trace(label, index, list(range(1, len(values) + 1)), list(values)))
            owners.append(layer)
    first = next(iter(layers), None)
    for trace, owner in zip(plot.data, owners, strict=True):
        trace.visible = owner == first
    buttons = [
        {"label": layer, "method": "update", "args": [{"visible": [owner == layer for owner in owners]}]}
        for layer in layers
    ]
    plot.update_yaxes(type="log", exponentformat="power")
    plot.update_layout(updatemenus=[{"buttons": buttons, "x": 1, "xanchor": "right", "y": 1.15}] if buttons else [])
    return plot


def tiles(images: NDArray[Any], title: str, columns: int = 8, zoom: int = 96) -> Any:
    """Draw `images` (n, C, H, W) side by side, each scaled by its largest magnitude, zero mid-grey; three channels in
    colour, any other number summed."""
    from plotly import graph_objects

    count, channels, height, width = images.shape
    values = images if channels == 3 else images.sum(axis=1, keepdims=True).repeat(3, axis=1)
    largest = np.abs(values).max(axis=(1, 2, 3), keepdims=True, initial=1e-30)
    rows = -(-count // columns)
    sheet = np.full((rows * (height + 1), columns * (width + 1), 3), 255, np.uint8)
    for index, image in enumerate(np.round(127.5 * (1 + values / largest)).astype(np.uint8)):
        top, left = (index // columns) * (height + 1), (index % columns) * (width + 1)
        sheet[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    plot = graph_objects.Figure(graph_objects.Image(z=sheet))
    plot.update_layout(title=title, template="plotly_white", width=columns * zoom + 80, height=rows * zoom + 120)
    plot.update_xaxes(visible=False)
    plot.update_yaxes(visible=False)
    return plot


def page(figures: Mapping[str, Any]) -> str:
    """Return `figures`, one below the other, as one HTML page that opens offline."""
    parts = [
        plot.to_html(full_html=False, include_plotlyjs=index == 0, div_id=name, default_height="480px")
        for index, (name, plot) in enumerate(figures.items())
    ]
    return f'<!doctype html><html><head><meta charset="utf-8"></head><body>{"".join(parts)}</body></html>'


def _empty(title: str, x: str, y: str) -> Any:
    from plotly import graph_objects

    plot = graph_objects.Figure()
    plot.update_layout(title=title, xaxis_title=x, yaxis_title=y, template="plotly_white", showlegend=True)
    return plot


def _trace(label: str, index: int, x: Sequence[Any], y: Sequence[float]) -> Any:
    from plotly import graph_objects

    colour, symbol = style(index)
    marker = {"color": colour, "symbol": symbol, "size": 8}
    line = {"color": colour, "dash": DASHES[index % len(DASHES)]}
    return graph_objects.Scatter(mode="lines+markers", x=x, y=y, name=label, marker=marker, line=line)
