"""Figures: complete, and legible without colour."""

from __future__ import annotations

import pytest

from paredown.figures import per_layer


def test_the_figure_shows_every_layer_and_tells_lines_apart_without_colour() -> None:
    curves = {label: {"conv": 0.1 * i, "layer1.0.conv1": 0.2 * i} for i, label in enumerate("abcde", start=1)}
    plot = per_layer(curves, "title", "unit")
    assert [trace.name for trace in plot.data] == list("abcde")
    assert list(plot.data[2].x) == ["conv", "layer1.0.conv1"] and list(plot.data[2].y) == pytest.approx([0.3, 0.6])
    assert len({(trace.marker.symbol, trace.line.dash) for trace in plot.data}) == 5
    assert len({trace.line.color for trace in plot.data}) == 5
    assert "<div" in plot.to_html(full_html=False, include_plotlyjs=False)
