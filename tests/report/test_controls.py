"""Controls in a report: beside their setting, never on the front, with what the setting has over them."""

from __future__ import annotations

import re

import pytest

from paredown.core.errors import UserError
from paredown.frontier.seeds import difference
from paredown.report.build import build
from paredown.report.controls import NOT_SIGNIFICANT, ONE_SEED, SIGNIFICANT, signed, verdict
from paredown.report.files import write
from paredown.report.page import answers
from paredown.report.publish import description
from paredown.report.request import Request
from paredown.report.terminal import show


@pytest.fixture(scope="module")
def records(make_records):
    """ssc at 4x with two controls: `dense`, significantly better, and `random`, not significantly different; the
    runs of ssc are of a version without controls, so their parameters lack the key."""
    found = make_records()
    found.sweep("beside")
    for seed in range(3):
        found.experiment("dense", seed, 95.0 + seed / 10, tags={"sweep": "beside"}, params={"control": None})
        found.experiment("ssc", seed, 90.0 + seed / 10, 4, tags={"sweep": "beside"})
        for kind, top1 in (("dense", 99.0 + seed / 10), ("random", 90.0 + seed)):
            tags = {"sweep": "beside", "control": kind, "stage/1_train": f"{kind}-{seed}"}
            found.experiment("ssc", seed, top1, 4, tags=tags, params={"control": kind})
    return found


@pytest.fixture(scope="module")
def report(records):
    return build(Request(output=str(records.folder), sweep="beside", budget="speed_up>=2"))


def test_a_control_is_no_point_of_the_front(report) -> None:
    assert list(report.points.index) == ["ssc speed_up=4", "dense"] and len(report.runs) == 6
    assert list(report.controls.index) == ["ssc speed_up=4 control=random", "ssc speed_up=4 control=dense"]
    # the control `dense` beats everything, and neither the front nor the best nor the area knows of it
    assert report.points["front"].all() and report.best == ("ssc speed_up=4", [])
    assert set(report.areas) == {"all", "dense", "ssc"} and report.chosen.setting == "ssc speed_up=4"
    assert report.scope == "resnet20 on cifar10: 2 settings, 6 runs, 3 seeds; 2 controls"
    assert "settings and seeds recorded twice" not in " ".join(report.missing)


def test_a_setting_is_held_against_its_own_controls(report) -> None:
    row = report.controls.loc["ssc speed_up=4 control=dense"]
    assert row["of"] == "ssc speed_up=4" and row["control"] == "dense" and row["seeds"] == 3
    assert row["lead"] == difference([90.0, 90.1, 90.2], [99.0, 99.1, 99.2])
    assert verdict(row["lead"]) == SIGNIFICANT and signed(row["lead"]) == "-9.000 ± 0.227"
    assert verdict(report.controls.loc["ssc speed_up=4 control=random", "lead"]) == NOT_SIGNIFICANT
    (line,) = [line for line in answers(report) if "controls" in line]
    assert re.fullmatch(
        r"ssc speed_up=4 against its controls, final/top1: random -0\.900 ± 2\.\d+ \(not significant\), "
        r"dense -9\.000 ± 0\.227 \(significant\)\.",
        line,
    )


def test_controls_are_in_every_file_and_on_the_page(report, records, tmp_path, capsys) -> None:
    import pandas

    files = write(report, tmp_path)
    table = pandas.read_csv(files[3])
    assert table["source"].value_counts()[["own", "control"]].to_dict() == {"own": 2, "control": 2}
    beside = table[table["source"] == "control"]
    assert set(beside["of"]) == {"ssc speed_up=4"} and not beside["front"].astype(bool).any()
    text = files[0].read_text()
    assert "<h2>Controls</h2>" in text and "-9.000 ± 0.227: significant" in text and "control: random" in text
    assert "against its controls" in description(report, "run", "1")
    show(report, files)
    assert "control=random" in capsys.readouterr().out


def test_controls_without_their_setting(records) -> None:
    every = build(Request(output=str(records.folder), sweep="beside")).every
    control = every[every["control"] == "random"].iloc[0]
    with pytest.raises(UserError, match="has only controls: name the runs that they are controls of"):
        build(Request(output=str(records.folder), runs=(control["run_id"],)))
    dense = every[every["setting"] == "dense"].iloc[0]
    report = build(Request(output=str(records.folder), runs=(control["run_id"], dense["run_id"])))
    assert report.controls.iloc[0]["lead"] is None and report.controls.iloc[0]["of"] == ""
    both = tuple(every[(every["seed"] == "0") & every["control"].isin(["", "random"])]["run_id"])
    lead = build(Request(output=str(records.folder), runs=both)).controls.iloc[0]["lead"]
    assert verdict(lead) == ONE_SEED
