"""Figures: complete, and legible without colour."""

from __future__ import annotations

import numpy as np
import pytest

from paredown.frontier.plots import per_layer, tiles


def test_the_figure_shows_every_layer_and_tells_lines_apart_without_colour() -> None:
    curves = {label: {"conv": 0.1 * i, "layer1.0.conv1": 0.2 * i} for i, label in enumerate("abcde", start=1)}
    plot = per_layer(curves, "title", "unit")
    assert [trace.name for trace in plot.data] == list("abcde")
    assert list(plot.data[2].x) == ["conv", "layer1.0.conv1"] and list(plot.data[2].y) == pytest.approx([0.3, 0.6])
    assert len({(trace.marker.symbol, trace.line.dash) for trace in plot.data}) == 5
    assert len({trace.line.color for trace in plot.data}) == 5
    assert "<div" in plot.to_html(full_html=False, include_plotlyjs=False)


def test_tiles_show_each_image_at_its_own_scale_with_zero_grey() -> None:
    images = np.zeros((3, 3, 2, 2), np.float32)
    images[0, :, 0, 0] = (0.5, -0.5, 0.25)
    images[1, 0, 1, 1] = 8
    sheet = np.asarray(tiles(images, "title", columns=2).data[0].z)
    assert sheet.shape == (6, 6, 3)
    assert sheet[0, 0].tolist() == [255, 0, 191] and sheet[0, 1].tolist() == [128] * 3
    assert sheet[1, 4].tolist() == [255, 128, 128]
    assert sheet[4, 4].tolist() == [255] * 3  # no fourth image
    assert np.asarray(tiles(images[:, :1], "title").data[0].z)[0, 0].tolist() == [255] * 3
    assert tiles(images[:0], "title").data
