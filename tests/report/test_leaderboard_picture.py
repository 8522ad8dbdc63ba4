"""The picture of the leaderboard: legible with as many methods as it has."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas
import pytest

from paredown.frontier.ranking import rank
from paredown.report import leaderboard_picture


@pytest.fixture(scope="module")
def table() -> pandas.DataFrame:
    """22 methods of two settings each whose accuracies are near each other, and a control."""
    rng, rows = np.random.default_rng(0), []
    for number in range(22):
        for cost, top1 in ((2, 77 + number / 20), (20, 60 + number / 20)):
            row = {
                "setting": f"method_{number:02} {cost}",
                "method": f"method_{number:02}",
                "control": "",
                "device": "a",
            }
            row |= {"macs": 4e7 / cost, "bytes": 1e6 / cost, "images": 2e5, "other_images": 0.0, "ms_b1": 3 / cost}
            row |= {"ms_b32": math.nan, "compression_images": 2e5}
            rows += [row | {"seed": seed, "top1": top1 + rng.normal(0, 0.3)} for seed in range(3)]
    control = {"setting": "a control=random", "method": "a_control", "control": "random", "top1": 1.0}
    return pandas.DataFrame([*rows, *(rows[0] | control | {"seed": seed} for seed in range(3))])


def drawn(table: pandas.DataFrame) -> Any:
    half = rank({str(name): rows["top1"].to_numpy() for name, rows in table.groupby("setting")}).half_width
    return leaderboard_picture.draw(table, half)


def test_every_method_is_named_once_a_panel_and_no_name_covers_another(table) -> None:
    picture = drawn(table)
    picture.canvas.draw()
    assert [axes.get_xlabel().split()[0] for axes in picture.axes] == ["multiply-adds", "latency", "bytes,", "images"]
    assert picture.get_figwidth() * picture.dpi == 832
    for axes in picture.axes:
        names = [text for text in axes.texts if text.get_text()]
        assert sorted(text.get_text() for text in names) == [f"method_{number:02}" for number in range(22)]
        boxes = sorted((text.get_window_extent() for text in names), key=lambda box: box.y0)
        assert all(below.y0 + 0.7 * below.height < above.y0 for below, above in itertools.pairwise(boxes))
        assert max(box.x1 for box in boxes) <= 832
        assert all(400 / 832 * box.height >= 9 for box in boxes)  # pixels, with its descent, in a picture of 400


def test_a_setting_at_chance_squeezes_no_axis_and_is_not_named(table) -> None:
    chance = table[table["method"] == "method_00"].assign(method="chance", setting="chance", top1=10.0)
    every = pandas.concat([table, chance], ignore_index=True)
    picture = drawn(every)
    assert all(axes.get_ylim()[0] > 40 for axes in picture.axes)
    assert all("chance" not in {text.get_text() for text in axes.texts} for axes in picture.axes)


def test_axes_end_at_the_bounds_of_an_accuracy_and_fit_the_costs(table) -> None:
    table = table[table["control"] == ""].assign(top1=lambda t: t["top1"] * (t["seed"] == 0))  # 0, 0 and 60 to 78 %
    picture = drawn(table)
    for axes in picture.axes:
        low, high = axes.get_ylim()
        assert 0 <= low < high <= 100
        reach = [line.get_ydata() for line in axes.lines if line.get_marker() == "_"]  # the ends of intervals
        assert reach and all(0 <= value <= 100 for values in reach for value in values)
    macs, *_, images = picture.axes
    assert macs.get_xscale() == "log" and images.get_xscale() == "linear"
    assert 0.5 * 2e6 < macs.get_xlim()[0] < 2e6 and 2e7 < macs.get_xlim()[1] < 2 * 2e7
