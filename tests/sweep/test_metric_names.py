"""The names of metrics that a sweep knows before it runs are those that the code records."""

from __future__ import annotations

import pytest

from paredown.cost import Cost, compare
from paredown.cost.conventions import RULES
from paredown.cost.latency import Latency
from paredown.report.training_cost import UNITS
from paredown.results.measure import TOPS
from paredown.sweep.metric_names import EPOCH, RESULT, no_epoch, no_result


def names(family: str) -> set[str]:
    return {f"{family}/{name}" for name in RESULT[family]}


def test_the_names_written_out_are_those_that_are_recorded() -> None:
    one, timed = Cost(1, 1, 1, ()), Latency(*[1.0] * 5, 1, 1, "cpu", 1)
    rules = {f"cost/speed_up_{rule}" for rule in RULES if rule != "conv_fc"}
    assert names("cost") == {*compare(one, one), *rules, "cost/bytes", "cost/dense_bytes"}
    assert names("price") == {*(f"price/{unit}" for unit in UNITS), "price/compression_images"}
    assert names("latency") == {*timed.metrics()}
    assert names("final") == {"final/loss", *(f"final/{top}" for top in TOPS)}


def test_a_name_of_a_method_is_let_through() -> None:
    for name in ("base/top1", "gain/base_top1", "energy", "bench/ms_b1", "mine/top1"):
        assert no_result(name) is None and no_epoch(name) is None
    for own, check in ((RESULT, no_result), (EPOCH, no_epoch)):
        assert all(check(f"{family}/{name}") is None for family, every in own.items() for name in every)


@pytest.mark.parametrize(
    ("check", "name", "said"),
    [
        (no_result, "final/topp1", "no such metric: did you mean final/top1"),
        (no_result, "cost/mac", "no such metric: did you mean cost/macs"),
        (no_result, "val/top1", "recorded for each epoch"),
        (no_epoch, "test/topp1", "no such metric: did you mean test/top1"),
        (no_epoch, "final/top1", "not recorded for each epoch"),
    ],
)
def test_a_name_that_no_run_records_is_told_with_the_nearest(check, name: str, said: str) -> None:
    assert said in check(name)
