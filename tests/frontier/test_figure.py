"""The drawn front: complete, told apart without colour, the same as page and as picture."""

from __future__ import annotations

import struct
from typing import get_args

import numpy as np
import pandas
import pytest

from paredown.config import ControlKind
from paredown.figures import style
from paredown.frontier.axes import Axis, budgets
from paredown.frontier.figure import STROKES as FIGURE_STROKES
from paredown.frontier.figure import draw, log_axis, methods, page, short, ticks
from paredown.frontier.picture import MARKERS, STROKES, save
from paredown.frontier.seeds import DOMINATED, ON_FRONT, UNDECIDED

X, Y = Axis("cost/macs"), Axis("final/top1")


@pytest.fixture
def points() -> pandas.DataFrame:
    rows = [
        {"x": 10.0, "y": 60.0, "half": 1.0, "state": ON_FRONT, "front": True, "knee": False, "method": "ssc"},
        {"x": 20.0, "y": 90.0, "half": np.nan, "state": UNDECIDED, "front": True, "knee": True, "method": "ssc"},
        {"x": 90.0, "y": 80.0, "half": 0.0, "state": DOMINATED, "front": False, "knee": False, "method": "dense"},
        {"x": 100.0, "y": 95.0, "half": 2.0, "state": ON_FRONT, "front": True, "knee": False, "method": "dense"},
    ]
    table = pandas.DataFrame(rows).assign(text="hover", link="http://host/run")
    for name in "xy":
        half = table["half"] if name == "y" else 0.0
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - half, table[name] + half
    return table


@pytest.fixture
def published() -> pandas.DataFrame:
    names = ["x", "y", "method", "text", "mark"]
    return pandas.DataFrame([(15.0, 70.0, "ssc", "a", ""), (30.0, 75.0, "trp", "b", "suspect")], columns=names)


def test_every_point_is_drawn_and_its_state_needs_no_colour(points, published) -> None:
    figure = draw(points, published, X, Y)
    by_name = {trace.name: trace for trace in figure.data if trace.name}
    assert set(by_name) == {"front of the means", "dense", "ssc", "ssc, published", "trp, published"}
    ssc, theirs = by_name["ssc"], by_name["ssc, published"]
    assert list(ssc.x) == [10, 20] and list(ssc.customdata) == ["http://host/run"] * 2
    assert np.asarray(ssc.error_y.array).tolist() == [1, 0]  # one seed: no bar
    assert theirs.marker.symbol == f"{ssc.marker.symbol}-open" and theirs.marker.color == ssc.marker.color
    sizes = dict(zip(points["state"], [*ssc.marker.size, *by_name["dense"].marker.size], strict=True))
    assert sizes[DOMINATED] < sizes[UNDECIDED] < sizes[ON_FRONT]
    assert list(by_name["trp, published"].text) == ["?"] and list(theirs.text) == [""]
    assert list(by_name["front of the means"].x) == [10, 20, 20, 100, 100]


def test_controls_are_thin_strokes_tied_to_their_point(points, published, tmp_path) -> None:
    points.index = ["a", "b", "c", "d"]
    beside = points.loc[["a", "a"]].assign(y=[50.0, 70.0], control=["random", "dense"], of=["a", "nowhere"])
    figure = draw(points, published, X, Y, controls=beside)
    drawn = [trace for trace in figure.data if list(trace.x) != [None]]
    strokes = [trace for trace in drawn if trace.marker.symbol in FIGURE_STROKES.values()]
    assert [trace.marker.symbol for trace in strokes] == ["x-thin", "y-down"]
    colour = next(trace.marker.color for trace in figure.data if trace.name == "ssc" and trace.marker.color)
    assert {trace.marker.line.color for trace in strokes} == {colour}
    ties = [trace for trace in figure.data if trace.line.dash == "dash"]
    assert [(list(trace.x), list(trace.y)) for trace in ties] == [([10, 10], [50, 60])]
    assert [trace.name for trace in figure.data if (trace.name or "").startswith("control")] == [
        "control: random",
        "control: dense",
    ]
    assert set(STROKES) == set(FIGURE_STROKES) == set(get_args(ControlKind))
    save(points, published, X, Y, tmp_path / "front.png", controls=beside)
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_styles_do_not_repeat_among_forty_methods() -> None:
    assert len({style(index) for index in range(42)}) == 42
    assert set(MARKERS) == {style(index)[1] for index in range(42)}


def test_own_methods_keep_their_style_whatever_is_published(points, published) -> None:
    assert methods(points, published)[:2] == methods(points, published[:0]) == ["dense", "ssc"]


def test_a_wide_cost_gets_a_logarithmic_axis_with_full_numbers(points, published) -> None:
    assert log_axis(points, published, X) and draw(points, published, X, Y).layout.xaxis.type == "log"
    assert not log_axis(points[points["x"] > 50], published[:0], X)
    assert not log_axis(points.assign(x=points["x"] - 10), published, X)  # 0 has no logarithm
    assert ticks(8e4, 3e5) == pytest.approx([1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6])
    assert [short(value) for value in (950, 76_672, 1.5e9, 0.25)] == ["950", "76.7k", "1.5G", "0.25"]


def test_the_page_needs_no_network(points, published) -> None:
    text = page(draw(points, published, X, Y, budgets("macs<=50", [X.name])))
    assert "<script src" not in text and "Plotly.newPlot" in text and "plotly_click" in text


def test_the_picture_is_a_png_of_the_size_told(points, published, tmp_path) -> None:
    for name, theirs in (("with.png", published), ("without.png", published[:0])):
        save(points, theirs, X, Y, tmp_path / name, budgets("macs<=50", [X.name]))
        content = (tmp_path / name).read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", content[16:24]) == (832, 520)
    assert (tmp_path / "with.png").read_bytes() != (tmp_path / "without.png").read_bytes()


def test_one_point_is_enough(points, published, tmp_path) -> None:
    draw(points[:1], published[:0], X, Y)
    save(points[:1], published[:0], X, Y, tmp_path / "one.png")
