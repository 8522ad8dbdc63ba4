"""The layers of settings that are compared side by side."""

from __future__ import annotations

import json

from paredown.report.build import build
from paredown.report.layers import COMPARED, read_layers
from paredown.report.page import render
from paredown.report.request import Request

ROW = {"kind": "Conv2d", "dense_macs": 4, "macs": 2, "dense_weights": 4, "weights": 2.0, "blueprint": {}}


def test_layers_of_each_setting_where_they_were_recorded(recorded) -> None:
    report = build(Request(output=str(recorded.folder), sweep="whole"))
    assert set(report.layers) == {"dense", "ssc speed_up=3", "ssc speed_up=4"}
    assert report.layers["dense"][1] == {
        **{"layer": "layer1.0.conv1", "kind": "low_rank", "dense_macs": 2000, "macs": 500, "dense_weights": 200},
        **{"weights": 50},
    }
    page = render(report)
    assert page.count("<option>") + page.count("<option selected>") == 2 * 3
    none = build(Request(output=str(recorded.folder), sweep="mixed", dataset="digits"))
    assert none.layers == {} and 'id="compare"' not in render(none)


def test_damaged_layers_are_left_out_and_said(make_records) -> None:
    records, missing = make_records(), list[str]()
    runs = {}
    texts = {
        "whole": json.dumps([ROW | {"layer": "</script>\n"}]),
        "text": "x",
        "other": '[{"layer": 1}]',
        "none": None,
    }
    for number, (name, text) in enumerate(texts.items()):
        runs[name] = records.experiment("ssc", number, 90.0, 4, layers=False)
        if text is not None:
            records.client.log_text(runs[name], text, "layers.json")
    found = read_layers(records.client, runs, missing)
    assert list(found) == ["whole"] and found["whole"][0]["layer"] == "</script>\\n"
    assert [line.partition(":")[0] for line in missing] == ["the layers of text", "the layers of other"]


def test_no_more_requests_than_are_worth_it(make_records) -> None:
    records, missing = make_records(), list[str]()
    run = records.experiment("ssc", 0, 90.0, 4)
    found = read_layers(records.client, {str(number): run for number in range(COMPARED + 3)}, missing)
    assert len(found) == COMPARED
    assert missing == ["settings whose layers are not compared, only those of 40 are: 3"]
