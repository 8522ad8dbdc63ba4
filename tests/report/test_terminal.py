"""The report in terminals of 80 and of 160 columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from paredown.report.build import build
from paredown.report.request import Request
from paredown.report.terminal import show


@pytest.fixture
def printed(monkeypatch, capsys):
    def lines(report, width: int, *files: Path) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        show(report, list(files))
        return capsys.readouterr().out.splitlines()

    return lines


def test_long_names_take_no_room_from_the_numbers(make_records, printed) -> None:
    records = make_records()
    for number, value in enumerate(("a" * 30, "b" * 30)):
        records.experiment("ssc", 0, 91.25 + number, 3.0, params={"method.first": value, "method.second": value})
    shown = " ".join(printed(build(Request(output=str(records.folder), dataset="cifar10")), 80))
    assert all(word in shown for word in ("final/top1", "cost/macs", "91.25", "92.25", "undecided"))


def test_all_findings_are_printed(recorded, printed) -> None:
    report = build(Request(output=str(recorded.folder), sweep="whole", budget="speed_up>=2"))
    lines = printed(report, 160, Path("/folder/report.html"))
    assert report.scope in lines and "/folder/report.html" in lines
    assert "Best under cost/speed_up >= 2: ssc speed_up=4, final/top1 90.10 ± 0.25." in lines
    assert any(
        line.startswith("Training cost of all runs: 12 distinct stages, 60 epochs, 120 s, 12G") for line in lines
    )
    assert "Missing: runs not shown: 1 failed" in lines
    assert "Published: rows of svd_training without final/top1: 7; 7 of them have gain/top1" in lines
    assert f"Also on the sweep's page in MLflow: run {report.parent}" in lines
    (row,) = [line for line in lines if "* ssc speed_up=4 " in line]
    assert "90.10 ± 0.25" in row and "10.2M" in row and "4.000" in row  # speed-up: in wide terminals alone
    assert not any("4.000" in line for line in printed(report, 80))
