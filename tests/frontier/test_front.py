"""From runs to settings."""

from __future__ import annotations

import numpy as np
import pandas
import pytest

from paredown.frontier.axes import Axis, budgets
from paredown.frontier.front import best, dominated_area, own_range, settings, staircase
from paredown.frontier.seeds import ON_FRONT, UNDECIDED

X, Y = Axis("cost/macs"), Axis("final/top1")
POINTS = {
    "small": (10, [60, 61, 62]),
    "middle": (20, [89, 90, 91]),
    "like middle": (20, [88, 90, 90]),
    "big": (60, [92]),
}


@pytest.fixture
def runs() -> pandas.DataFrame:
    rows = [
        {"setting": name, "seed": seed, X.name: macs, Y.name: float(value)}
        for name, (macs, values) in POINTS.items()
        for seed, value in enumerate(values)
    ]
    return pandas.DataFrame(rows)


def test_a_setting_is_a_row(runs) -> None:
    table = settings(runs, X, Y)
    assert list(table.index) == ["small", "like middle", "middle", "big"]  # by cost
    assert table["seeds"].to_dict() == {"small": 3, "middle": 3, "like middle": 3, "big": 1}
    assert table.loc["middle", "y"] == 90 and table.loc["middle", "y_high"] == pytest.approx(
        90 + 4.3027 / np.sqrt(3), abs=1e-4
    )
    assert np.isnan(table.loc["big", "y_low"]) and table.loc["small", "x_low"] == 10
    assert table["front"].to_dict() == {"small": True, "middle": True, "like middle": False, "big": True}
    assert table["state"].to_dict() == {
        "small": ON_FRONT,
        "middle": UNDECIDED,
        "like middle": UNDECIDED,
        "big": UNDECIDED,
    }
    assert list(table.index[table["knee"]]) == ["middle"]


def test_the_best_under_a_budget_and_who_is_as_good(runs) -> None:
    recorded = [X.name, Y.name]
    assert best(runs, Y, budgets("macs<=30", recorded)) == ("middle", ["like middle"])
    assert best(runs, Y, []) == ("big", ["middle", "like middle", "small"])  # one seed is told apart from nothing
    assert best(runs, Y, budgets("macs<5", recorded)) is None


def test_a_budget_is_kept_by_the_float_beside_it(runs) -> None:
    """The mean of equal costs, and one that differs in the last bit, are within a bound that is the cost."""
    runs[X.name] = runs[X.name] * 0.1  # 20 * 0.1 + 20 * 0.1 + ... is not 3 * 2.0000000000000004 in every order
    cost = float(runs.loc[runs["setting"] == "middle", X.name].iloc[0])
    for bound in (cost, np.nextafter(cost, 0), np.nextafter(cost, 9)):
        found = best(runs, Y, budgets(f"macs<={float(bound)!r}", [X.name, Y.name]))
        assert found is not None and found[0] == "middle"
        assert best(runs, Y, budgets(f"macs<{float(bound)!r}", [X.name, Y.name])) == ("small", [])


def test_the_area_needs_a_seed_that_all_have(runs) -> None:
    """Seed by seed, reference (100, 50), ideal (0, 100): steps of (20-10) x (60-50) and (100-20) x (89-50) ..."""
    three = runs[runs["setting"] != "big"]
    areas = [(10 * (low - 50) + 80 * (high - 50)) / 5000 for low, high in ((60, 89), (61, 90), (62, 91))]
    found = dominated_area(three, X, Y, (100, 50), (0, 100))
    assert found is not None and (found.mean, found.seeds) == (pytest.approx(np.mean(areas)), 3)
    one = dominated_area(runs, X, Y, (100, 50), (0, 100))
    assert one is not None and one.seeds == 1 and np.isnan(one.low)
    assert dominated_area(runs[runs.index != 0].query("setting in ('small', 'big')"), X, Y, (100, 50), (0, 100)) is None


def test_the_staircase_runs_along_the_dominated_area() -> None:
    points = np.array([(1, 1), (2, 3), (2, 2), (4, 4)])
    assert staircase(points, X, Y) == [(1, 1), (2, 1), (2, 3), (4, 3), (4, 4)]
    faster = Axis("cost/speed_up")
    assert staircase(np.array([(1, 3), (2, 1)]), faster, Y) == [(1, 3), (1, 1), (2, 1)]


def test_a_logarithmic_range_is_above_zero_where_an_interval_is_not() -> None:
    wide = pandas.DataFrame({"x": [1.2, 12.0], "x_low": [-2.0, -30.0], "x_high": [5.0, 56.0]})
    low, high = own_range(wide, "x", Axis("latency/ms"), log=True)
    assert 0 < low < 1.2 and 56 < high < 80
