"""The summary of a run: a speed-up is claimed only where the measurement shows it, a missed target is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from paredown.core.words import as_typed
from paredown.run.terminal import _measured, dashboard, gained_and_lost, next_commands, show
from paredown.run.walk import Result

METRICS = {
    "final/top1": 90.123,
    "best/top1": 91.5,
    "selected/top1": 88.75,
    "base/top1": 92.25,
    "dense/top1": 93.5,
    "gain/top1": -3.377,
    "rank/full": 1200.0,
    "rank/sum": 300.0,
    "cost/dense_macs": 40_813_184.0,
    "cost/macs": 10_203_296.0,
    "cost/speed_up": 4.0,
    "cost/dense_params": 272_474.0,
    "cost/params": 54_494.8,
    "cost/compression": 5.0,
    "cost/sparsity": 0.8123,
    "cost/speed_up_thop": 3.25,
    "latency/dense_ms": 4.5,
    "latency/ms": 2.25,
    "latency/speed_up": 2.0,
    "latency/speed_up_low": 1.9,
    "latency/speed_up_high": 2.1,
}
TARGET = {"target/asked": 4.0, "target/reached": 3.912, "target/tolerance": 0.05}


@pytest.fixture
def shown(monkeypatch, capsys):
    """The lines that `show` prints for METRICS and more."""
    monkeypatch.setenv("COLUMNS", "120")

    def lines(**more: float) -> list[str]:
        metrics = METRICS | {name.replace("__", "/"): value for name, value in more.items()}
        show(Result(metrics, Path("/state"), Path("/out/experiments/one"), None), "a title")
        return capsys.readouterr().out.splitlines()

    return lines


def cells(lines: list[str], head: str) -> list[str]:
    (line,) = [line for line in lines if line.startswith("│") and line[1:].strip().startswith(head)]
    return [cell.strip() for cell in line.strip("│").split("│")]


@pytest.mark.parametrize(
    ("ratio", "low", "high", "text"),
    [
        (1.21, 0.9, 1.4, "undecided, 0.90x to 1.40x"),
        (1.01, 0.97, 1.04, "no faster, measured"),
        (0.97, 0.9, 1.02, "no faster, measured"),
        (1.02, 1.01, 1.03, "no faster, measured"),
        (2.0, 1.9, 2.1, "2.00x faster, measured"),
        (0.5, 0.45, 0.55, "2.00x SLOWER, measured"),
    ],
)
def test_a_speed_up_is_claimed_only_if_it_shows(ratio: float, low: float, high: float, text: str) -> None:
    assert _measured(ratio, low, high) == text


def test_every_metric_is_in_its_row(shown) -> None:
    lines = shown()
    assert cells(lines, "top-1, last epoch (%)")[1:] == ["93.50", "90.12", "-3.38 points"]
    assert cells(lines, "top-1, best test epoch (%)")[2] == "91.50"
    assert cells(lines, "top-1, best val epoch (%)")[2] == "88.75"
    assert cells(lines, "top-1, before compression (%)")[2] == "92.25"
    assert cells(lines, "singular values")[1:] == ["1,200", "300", "4.00x fewer"]
    assert cells(lines, "MACs")[1:] == ["40,813,184", "10,203,296", "4.00x fewer"]
    assert cells(lines, "parameters")[1:] == ["272,474", "54,495", "5.00x fewer"]
    assert cells(lines, "sparsity")[2] == "81.23%"
    assert cells(lines, "latency")[1:] == ["4.500", "2.250", "2.00x faster, measured"]
    assert lines[0] == "a title" and "MACs as other papers count them: thop 3.25x fewer (docs/cost.md)" in lines
    assert "network  /state" in lines and "records  /out/experiments/one" in lines


SIZES = {"cost/dense_bytes": 1_088_744.0, "cost/bytes": 215_128.0}


def test_the_dashboard_opens_the_records_of_the_run(monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    assert dashboard(Path("outputs")) == dashboard(tmp_path / "outputs") == "make dashboard"
    assert dashboard(Path("my records")) == "make dashboard OUTPUT='my records'"


def test_a_sentence_says_what_was_gained_and_lost(shown) -> None:
    lines = shown(**{name.replace("/", "__"): value for name, value in SIZES.items()})
    assert cells(lines, "bytes, zeros left out")[1:] == ["1,088,744", "215,128", "5.06x fewer"]
    assert (
        "Gained: 4x fewer MACs, 5.06x fewer bytes, 2.00x faster, measured. "
        "Lost: 3.38 points of top-1 (93.50 -> 90.12 %)." in lines
    )


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"gain/top1": 0.5}, "Gained: 4x fewer MACs, 2.00x faster, measured, 0.50 points"),
        ({"latency/speed_up_low": 0.9}, "Lost: 3.38 points of top-1 (93.50 -> 90.12 %). Speed: undecided, 0.90x to"),
        ({"latency/speed_up": 1.01, "latency/speed_up_high": 1.02}, "90.12 %). Speed: no faster, measured."),
        (
            {"latency/speed_up": 0.5, "latency/speed_up_high": 0.6, "latency/speed_up_low": 0.4},
            "2.00x SLOWER, measured",
        ),
        ({"cost/speed_up": 0.9}, "Gained: 2.00x faster, measured. Lost: 1.11x more MACs, 3.38 points"),
        ({"gain/top1": 0.001}, "Lost: nothing. Top-1: the same (90.12 %)."),
    ],
)
def test_only_what_was_gained_is_called_so(changed: dict[str, float], said: str) -> None:
    assert said in gained_and_lost(METRICS | changed)
    slower = "SLOWER" in said
    assert ("SLOWER" in gained_and_lost(METRICS | changed).partition("Lost:")[2]) is slower


def test_without_a_dense_network_nothing_is_compared() -> None:
    assert gained_and_lost({name: value for name, value in METRICS.items() if not name.startswith("gain")}) == ""


def test_the_next_commands_fit_what_was_run() -> None:
    words = ["dataset=digits", "model=vgg19", "method=ssc", "sparsity=0.9", "method.g=4", "seed=1", "output=my out"]
    without = Result({"final/top1": 1.0}, Path("/state"), Path("/out/experiments/one"), None)
    report, export, other = next_commands(without, words)
    assert "src/run.py dataset=digits model=vgg19 seed=1 'output=my out'   # the dense" in report
    assert "src/export.py run=/out/experiments/one 'output=my out'" in export
    assert "src/run.py dataset=digits model=vgg19 method=l1_filters speed_up=4 'output=my out'" in other
    with_dense = Result({"gain/top1": 1.0}, Path("/state"), Path("/out/experiments/one"), "ab12")
    report, export, other = next_commands(with_dense, ["method=zhang"])
    assert "src/run.py && " in report and "src/report.py dataset=cifar10 model=resnet20   # the dense network" in report
    assert "run=ab12   #" in export
    assert "method=ssc sparsity=0.9" in other


@pytest.mark.parametrize(
    ("typed", "shown"), [("/tmp/out", "output=/tmp/out"), ("my out", "'output=my out'"), ("2024_01", "output=2024_01")]
)
def test_a_folder_is_shown_as_it_was_typed(typed: str, shown: str) -> None:
    """And not with the quotes that Hydra was given, quoted once more for the shell."""
    result = Result({"final/top1": 1.0}, Path("/state"), Path("/out/experiments/one"), None)
    for command in next_commands(result, ["dataset=digits", as_typed(f"output={typed}")]):
        assert f" {shown}   #" in command


def test_the_next_commands_know_what_an_experiment_names() -> None:
    result = Result({"final/top1": 1.0}, Path("/state"), Path("/out/experiments/one"), None)
    dense, _, other = next_commands(result, ["experiment=ssc_resnet32_cifar100"])
    assert "src/run.py experiment=ssc_resnet32_cifar100 method=dense   # the dense network" in dense
    assert "dataset=cifar100 model=resnet32 method=l1_filters" in other


def test_they_are_shown_after_a_command_alone(shown, capsys) -> None:
    assert "next:" not in shown()
    show(Result(METRICS, Path("/state"), Path("/out/experiments/one"), None), "a title", ["method=ssc", "sparsity=0.9"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines[lines.index("next:") + 1 :]) == 3


def test_a_missed_target_is_reported(shown) -> None:
    lines = shown(**TARGET)
    assert cells(lines, "target")[2] == "4 -> 3.912"
    assert "WARNING: the target was missed: 3.912 instead of 4, tolerance 0.05" in lines


def test_a_target_that_was_reached_or_is_not_recorded_gives_no_warning(shown) -> None:
    reached = shown(**(TARGET | {"target/reached": 3.96}))
    assert cells(reached, "target")[2] == "4 -> 3.96" and "WARNING" not in " ".join(reached)
    for old in ({}, {"target/asked": 4.0}):
        assert "target" not in " ".join(shown(**old))
