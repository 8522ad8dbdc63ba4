"""The table in a terminal of 80 columns."""

from __future__ import annotations

from paredown.report.build import build
from paredown.report.request import Request
from paredown.report.terminal import show


def test_long_names_take_no_room_from_the_numbers(make_records, monkeypatch, capsys) -> None:
    records = make_records()
    monkeypatch.setenv("COLUMNS", "80")
    for number, knob in enumerate(("a" * 30, "b" * 30)):
        records.experiment("ssc", 0, 91.25 + number, 3.0, params={"method.first": knob, "method.second": knob})
    show(build(Request(output=str(records.folder), dataset="cifar10")), [])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("final/top1", "cost/macs", "91.25", "92.25", "undecided"))
