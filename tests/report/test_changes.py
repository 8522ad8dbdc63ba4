"""What a report says of the last one in its folder."""

from __future__ import annotations

import json

import pytest

from paredown.report.build import build
from paredown.report.changes import NAME, remember
from paredown.report.page import render
from paredown.report.request import Request


@pytest.fixture
def records(make_records):
    records = make_records()
    for seed in range(3):
        records.experiment("dense", seed, 91.0 + seed / 10)
        records.experiment("ssc", seed, 90.0 + seed / 10, 4)
    return records


@pytest.fixture(scope="module")
def report(recorded):
    return build(Request(output=str(recorded.folder), sweep="whole"))


@pytest.fixture
def ask(records):
    return lambda **values: build(Request(output=str(records.folder), dataset="cifar10", **values))


def test_new_gone_and_moved_settings_are_named(records, ask, tmp_path) -> None:
    first = remember(ask(), tmp_path)
    assert (first.since, first.lines) == ("", [])
    for run in records.client.search_runs(["1"], "tags.method = 'dense'"):
        records.client.delete_run(run.info.run_id)
    for seed in range(3):
        records.experiment("ssc", seed, 85.0 + seed / 10, 4)
    records.experiment("snip", 0, 80.0, 2)
    changes = remember(ask(), tmp_path)
    assert changes.since and changes.lines == [
        "New: snip speed_up=2.",
        "Gone: dense.",
        "ssc speed_up=4: final/top1 90.10 (89.85 to 90.35) is now 85.10, 3 seeds.",
    ]
    again = remember(ask(), tmp_path)  # nothing changed since: what did is still said
    assert again == changes


def test_a_mean_within_its_interval_and_another_label_are_no_change(records, ask, tmp_path) -> None:
    remember(ask(), tmp_path)
    records.experiment("ssc", 3, 90.2, 4)
    records.experiment("ssc", 0, 70.0, 4, params={"method.p": 2})  # labels of ssc now name p
    assert remember(ask(), tmp_path).lines == ["New: ssc speed_up=4 p=2."]


def test_one_seed_moves_by_any_difference(records, ask, tmp_path) -> None:
    records.experiment("snip", 0, 80.0, 2)
    remember(ask(), tmp_path)
    records.experiment("snip", 0, 80.5, 2)
    assert remember(ask(), tmp_path).lines == ["snip speed_up=2: final/top1 80.00 (one seed) is now 80.50, 1 seed."]


def test_nothing_moved_and_other_axes(ask, tmp_path, records) -> None:
    remember(ask(), tmp_path)
    records.experiment("ssc", 3, 90.2, 4)
    assert remember(ask(), tmp_path).lines == ["No setting is new, gone, or beyond its interval."]
    assert remember(ask(x="latency/ms"), tmp_path).lines == [
        "It drew final/top1 over cost/macs: other axes, not compared."
    ]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"when": "<script>alert(1)</script>"}', '{"when": 1}', "[" * 100_000, '{"a":' * 5000],
)
def test_a_damaged_record_is_one_line_and_replaced(report, tmp_path, text) -> None:
    (tmp_path / NAME).write_text(text)
    (line,) = remember(report, tmp_path).lines
    assert line.startswith("The last report cannot be compared: ") and NAME in line and "\n" not in line
    assert len(json.loads((tmp_path / NAME).read_text())["settings"]) == 3


def test_what_the_record_says_is_text_on_the_page(report, tmp_path) -> None:
    remember(report, tmp_path)
    stored = json.loads((tmp_path / NAME).read_text())
    gone = {"name": "<img src=x onerror=alert(1)>", "x": 1.0, "y": 1.0, "low": None, "high": None, "seeds": 1}
    stored["settings"]["0"] = gone
    stored["when"] = "<b>then</b>"
    (tmp_path / NAME).write_text(json.dumps(stored))
    page = render(report, remember(report, tmp_path))
    assert "Gone: &lt;img src=x" in page and "<img src=x" not in page
    assert "since the report of &lt;b&gt;then&lt;/b&gt;" in page
