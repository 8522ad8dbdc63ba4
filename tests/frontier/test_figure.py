"""The drawn front: complete, told apart without colour, the same as page and as picture."""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import get_args

import numpy as np
import pandas
import pytest

from paredown.core.config import ControlKind
from paredown.frontier.axes import Axis, budgets
from paredown.frontier.figure import STROKES as FIGURE_STROKES
from paredown.frontier.figure import draw, log_axis, methods, page, ticks
from paredown.frontier.picture import MARKERS, STROKES, save
from paredown.frontier.plots import style
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
    assert log_axis(points, published) and draw(points, published, X, Y).layout.xaxis.type == "log"
    assert not log_axis(points[points["x"] > 50], published[:0])
    assert not log_axis(points.assign(x=points["x"] - 10), published)  # 0 has no logarithm
    assert ticks(8e4, 3e5) == pytest.approx([1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6])
    labels = draw(points.assign(x=points["x"] * 1e5), published[:0], X, Y).layout.xaxis.ticktext
    assert {"1M", "2M", "10M"} <= set(labels)


def test_intervals_end_where_an_accuracy_can(points, published) -> None:
    wide = points.assign(y_low=points["y"] - 70, y_high=points["y"] + 70)
    ssc = next(trace for trace in draw(wide, published, X, Y).data if trace.name == "ssc")
    assert list(ssc.error_y.array) == [40, 10] and list(ssc.error_y.arrayminus) == [60, 70]
    gain = next(trace for trace in draw(wide, published, X, Axis("gain/top1")).data if trace.name == "ssc")
    assert list(gain.error_y.array) == [70, 70] and list(gain.error_y.arrayminus) == [70, 70]


def test_the_axis_of_an_accuracy_ends_at_100_but_for_the_room_of_a_symbol(points, published) -> None:
    alone = points[:1].assign(y=98.0, y_low=np.nan, y_high=np.nan)
    low, high = draw(alone, published[:0], X, Y).layout.yaxis.range
    assert low == pytest.approx(98 * 0.92) and 100 < high < 101
    low, high = draw(alone, published[:0], X, Axis("gain/top1")).layout.yaxis.range
    assert high == pytest.approx(98 * 1.08)


def test_published_rows_do_not_move_the_own_points_into_a_corner(points, published, tmp_path) -> None:
    shifted = {name: points[name] + 1000 for name in ("x", "x_low", "x_high")}
    near, far = points.assign(**shifted), published.assign(x=1e6)
    figure = draw(near, far, X, Y)
    low, high = (10**value for value in figure.layout.xaxis.range)
    assert 900 < low < 1010 and 1100 < high < 1200
    assert [button.label for button in figure.layout.updatemenus[0].buttons] == ["these runs", "published rows too"]
    assert not draw(near, far[:0], X, Y).layout.updatemenus
    beside = near.assign(control="random", of="a", y=20.0)
    assert draw(near, far, X, Y, controls=beside).layout.yaxis.range[0] < 20  # a control is one's own
    save(near, far, X, Y, tmp_path / "front.png")


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
    assert [10.0] in [list(trace.x) for trace in draw(points[:1], published[:0], X, Y).data]
    save(points[:1], published[:0], X, Y, tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_every_method_of_many_is_named_once_beside_the_axes(points, published, tmp_path, monkeypatch) -> None:
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: drawn.append(figure))
    each = (points[3:].assign(method=f"method_{n:02}", y=80 + n / 50, front=n == 23) for n in range(24))
    many = pandas.concat(list(each))
    beside = many[:2].assign(control="random", of="none", method="method_00")
    for theirs in (published, published[:0]):
        save(many.reset_index(), theirs, X, Y, tmp_path / "front.png", controls=beside)
    for picture in drawn:
        picture.canvas.draw()
        width, height = picture.get_size_inches() * picture.dpi
        names = sorted(
            (t for t in picture.axes[0].texts if t.get_text().startswith("method")), key=lambda t: t.get_text()
        )
        assert [text.get_text() for text in names] == [f"method_{n:02}" for n in range(24)]
        boxes = [text.get_window_extent() for text in names]
        assert all(below.y0 + 0.7 * below.height < above.y0 for below, above in pairwise(boxes))
        inside = [*boxes, *(legend.get_window_extent() for legend in picture.legends)]
        inside += [axes.get_tightbbox() for axes in picture.axes[0].child_axes]
        assert not [box for box in inside if not (0 <= box.x0 < box.x1 <= width and 0 <= box.y0 < box.y1 <= height)]
        assert not any(box.overlaps(axes.get_window_extent()) for box in boxes for axes in picture.axes[0].child_axes)
    assert len(drawn[0].axes[0].child_axes) == 1 and not drawn[1].axes[0].child_axes
