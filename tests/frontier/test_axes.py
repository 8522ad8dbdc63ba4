"""Metrics by their names, and budgets."""

from __future__ import annotations

import pytest

from paredown.core.errors import UserError
from paredown.frontier.axes import Axis, axis, budgets

RECORDED = ["final/top1", "best/top1", "cost/macs", "cost/speed_up", "latency/speed_up", "latency/ms", "price/macs"]


def test_a_short_name_is_the_usual_metric() -> None:
    names = {short: axis(short, RECORDED).name for short in ("top1", "macs", "speed_up", "ms", "latency/speed_up")}
    assert names == {
        "top1": "final/top1",
        "macs": "cost/macs",
        "speed_up": "cost/speed_up",
        "ms": "latency/ms",
        "latency/speed_up": "latency/speed_up",
    }
    with pytest.raises(UserError, match=r"no metric 'cost/mac'.*did you mean cost/macs"):
        axis("cost/mac", RECORDED)


def test_what_is_better() -> None:
    up = {
        "final/top1",
        "gain/top1",
        "gain/base_top1",
        "cost/speed_up",
        "cost/speed_up_conv",
        "cost/sparsity",
        "cost/compression",
    }
    down = {"cost/macs", "cost/params", "latency/ms", "price/seconds", "price/macs", "final/loss"}
    assert all(Axis(name).maximize for name in up) and not any(Axis(name).maximize for name in down)
    assert Axis("cost/macs").exact and not Axis("latency/ms").exact and not Axis("final/top1").exact
    assert Axis("cost/speed_up_conv").relative and not Axis("cost/macs").relative


def test_budgets() -> None:
    first, second = budgets("speed_up>=3, latency/ms < 2.5", RECORDED)
    assert (first.axis.name, second.axis.name) == ("cost/speed_up", "latency/ms")
    assert first.holds(3) and not first.holds(2.99) and not first.holds(float("nan"))
    assert second.holds(2.49) and not second.holds(2.5)
    assert budgets(None, RECORDED) == [] and str(first) == "cost/speed_up >= 3"
    for wrong in ("speed_up=3", "speed_up>=fast", "speed_up>=nan", "speed_up<=inf", ">=3"):
        with pytest.raises(UserError, match="cannot read budget"):
            budgets(wrong, RECORDED)
    with pytest.raises(UserError, match="no metric 'flops'"):
        budgets("flops<=3", RECORDED)


def test_a_bench_that_is_not_recorded_says_what_records_it() -> None:
    with pytest.raises(UserError, match=r"no metric 'bench/ms_b1' .* \(python src/bench.py run=ID records"):
        budgets("bench/ms_b1<=2", RECORDED)
