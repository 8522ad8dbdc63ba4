"""Published rows beside runs: where a row is placed on each axis, and the caveats."""

from __future__ import annotations

import pandas
import pytest

from paredown.frontier.axes import Axis
from paredown.published import load
from paredown.report.compare import _settings, hover, overlay

ROW = "svd_training/table3/11"  # ResNet-20: 90.99 - 0.10 at 3.87x, counted by conv


def runs(*params: dict[str, str], **columns: float) -> pandas.DataFrame:
    network = {
        "model._target_": "paredown.models.cifar.resnet.cifar_resnet",
        "model.depth": "20",
        "model.width": "1",
        "model.shortcut": "B",
        "model.block": "basic",
    }
    rows = [{"dataset": "cifar10", "model": "resnet20", "params": network | more} | columns for more in params or ({},)]
    return pandas.DataFrame(rows)


def protocol(*params: dict[str, str]) -> str:
    (line,) = [
        line for line in overlay(runs(*params), Axis("cost/speed_up"), Axis("gain/top1"))[1] if "these runs" in line
    ]
    return line.partition("these runs: ")[2]


def test_every_protocol_of_the_runs_is_named() -> None:
    short = {"recipe.epochs": "2", "dataset.fraction": "0.5"}
    long = {"recipe.epochs": "160", "dataset.fraction": "1.0"}
    assert protocol(short, long, short) == "160, 2 epochs on 0.5, 1.0 of the images"
    assert protocol(short) == "2 epochs on 0.5 of the images"
    assert protocol({}) == "? epochs on ? of the images"  # recorded by an older version


@pytest.mark.parametrize(
    ("x", "expected"),
    [("cost/macs", 8000 / 3.87), ("cost/speed_up", 3.87), ("cost/speed_up_conv", 3.87)],
)
def test_a_row_is_placed_by_the_cost_that_is_drawn(x: str, expected: float) -> None:
    rows, _ = overlay(runs(**{"cost/dense_macs": 8000.0}), Axis(x), Axis("gain/top1"))
    assert rows.set_index("id").loc[ROW, "x"] == pytest.approx(expected)


@pytest.mark.parametrize(("y", "expected"), [("final/top1", 90.89), ("gain/top1", -0.1), ("gain/base_best_top1", -0.1)])
def test_a_row_is_placed_by_the_accuracy_that_is_drawn(y: str, expected: float) -> None:
    rows, _ = overlay(runs(), Axis("cost/speed_up"), Axis(y))
    assert rows.set_index("id").loc[ROW, "y"] == pytest.approx(expected)


def test_rows_without_the_cost_that_is_drawn_are_counted_with_the_cost_that_they_have() -> None:
    for x in ("cost/speed_up_thop", "cost/params", "latency/ms"):
        rows, lines = overlay(runs(**{"cost/dense_params": 100.0}), Axis(x), Axis("gain/top1"))
        assert rows.empty and f"rows of svd_training without {x}: 25; 25 of them have cost/speed_up" in lines


def test_another_rule_of_counting_is_named_only_where_it_matters() -> None:
    def counted(x: str) -> list[str]:
        return [line for line in overlay(runs(), Axis(x), Axis("gain/top1"))[1] if line.startswith("costs counted by")]

    assert "costs counted by conv, where ours are by conv_fc: 22 rows" in counted("cost/speed_up")
    assert counted("cost/speed_up_conv") == []


def test_an_accuracy_of_another_epoch_or_a_gain_on_another_network_is_said() -> None:
    def drawn(y: str) -> list[str]:
        return [line for line in overlay(runs(), Axis("cost/speed_up_conv"), Axis(y))[1] if line.startswith("drawn")]

    # 18 rows of SVD training print the best epoch; TRP's gains are on the network of SVD training
    (last,) = drawn("final/top1")
    assert last == "drawn by final/top1, but another quantity, best/top1: 18 rows"
    assert drawn("best/top1") == []
    own, other = drawn("gain/base_best_top1")
    assert own == "drawn by gain/base_best_top1, but another quantity, gain/base_top1: 2 rows"
    assert other.endswith("printed against the base of SVD training, another network than this row's own: 2 rows")
    assert drawn("selected/top1") and drawn("gain/top1")


def test_parameters_removed_are_not_drawn_as_sparsity() -> None:
    """SSC's Table 5 prints parameters, of which weights are a part."""
    network = {f"model.{name}": value for name, value in _settings("mobilenet_v2_cifar").items()}
    table = pandas.DataFrame([{"dataset": "cifar10", "model": "mobilenet_v2_cifar", "params": network}])
    for x, drawn in (("cost/sparsity", 0), ("cost/compression", 5)):
        rows, _ = overlay(table, Axis(x), Axis("best/top1"))
        assert len(rows) == drawn, x


def test_a_row_is_described_in_full() -> None:
    row = load().set_index("id", drop=False).loc["svd_training/table3/5"]
    text = hover(row)
    for part in ("svd_training/table3/5", "decomposition=", "regularizer=", "counted by conv", "<b>suspect</b>"):
        assert part in text
    assert row["gain_reference"] in text


def test_a_row_is_placed_by_the_dense_network_of_its_own_width() -> None:
    table = runs({}, *({"model.width": "0.5"},) * 3).assign(**{"cost/dense_macs": [8000.0, 2000.0, 2000.0, 2000.0]})
    rows, _ = overlay(table, Axis("cost/macs"), Axis("gain/top1"))
    assert rows.set_index("id").loc[ROW, "x"] == pytest.approx(8000 / 3.87)
