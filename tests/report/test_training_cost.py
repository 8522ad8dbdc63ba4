"""Training cost of made-up runs: shared stages once, incomplete records not at all."""

from __future__ import annotations

import math

import pandas
import pytest

from paredown.report.training_cost import training_cost


def stage(key: str, seconds: float) -> dict[str, object]:
    return {"key": key, "images": 20, "other_images": 3, "epochs": 2, "seconds": seconds, "macs": 100.0}


@pytest.fixture
def runs() -> pandas.DataFrame:
    """Two settings that share the stage `a`, a run that recorded no cost, and one that lost a stage."""
    rows = [
        {"setting": "x", "price": [stage("a", 30.0), stage("b", 10.0)], "stages": {"0": "a", "1": "b"}},
        {"setting": "x", "price": [stage("c", 20.0), stage("d", 40.0)], "stages": {"0": "c", "1": "d"}},
        {"setting": "y", "price": [stage("a", 30.0)], "stages": {"0": "a"}},
        {"setting": "z", "price": None, "stages": {"0": "e"}},
        {"setting": "z", "price": [stage("e", 1.0)], "stages": {"0": "e", "1": "f"}},
    ]
    return pandas.DataFrame(rows)


def test_a_shared_stage_is_counted_once_in_the_total_and_in_full_for_each_setting(runs) -> None:
    cost = training_cost(runs)
    assert (cost.stages, cost.reused, cost.unknown) == (4, 1, 2)
    assert cost.total == {"images": 80, "other_images": 12, "epochs": 8, "seconds": 100, "macs": 400}
    assert cost.saved == {"images": 20, "other_images": 3, "epochs": 2, "seconds": 30, "macs": 100}
    whole = {"images": 40, "other_images": 6, "epochs": 4, "seconds": 50, "macs": 200}
    assert cost.settings.loc["x"].to_dict() == whole | {"shared": 0.375, "runs": 2}
    assert cost.settings.loc["y", "shared"] == 1 and "z" not in cost.settings.index


def test_runs_without_any_record_have_no_cost(runs) -> None:
    cost = training_cost(runs[runs["setting"] == "z"])
    assert (cost.stages, cost.unknown) == (0, 2) and cost.settings.empty and cost.total["macs"] == 0


def test_an_older_run_did_not_count_its_images(runs) -> None:
    del runs.loc[2, "price"][0]["images"]
    settings = training_cost(runs).settings
    assert math.isnan(settings.loc["y", "images"]) and settings.loc["x", "images"] == 40
    assert settings.loc["y", "epochs"] == 2
