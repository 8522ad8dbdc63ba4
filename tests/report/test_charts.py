"""The saved charts of MLflow's pages: a data set and network each, coloured by method."""

from __future__ import annotations

import json

import pytest

from paredown.frontier.plots import COLOURS
from paredown.report.dashboard import COLOUR, charts, colour
from paredown.tracking.view import TAG


@pytest.fixture
def records(make_records):
    return make_records()


def experiment(records):
    (found,) = records.client.search_experiments(filter_string="name != 'Default'")
    return found


def test_a_chart_for_each_data_set_and_network(records) -> None:
    for seed in range(2):
        records.experiment("ssc", seed, 90.0, 4)
    digits = records.experiment("dense", 0, 98.0, tags={"dataset": "digits"})
    dense = records.experiment("dense", 0, 91.0)
    records.experiment("dense", 0, 91.0, tags={"model": "it's"})  # which no search can hold
    records.sweep("front")
    first, second = charts(records.client, experiment(records))
    assert (first.what, first.runs) == ("cifar10, resnet20", 3)
    assert (second.what, second.runs) == ("digits, resnet20", 1)
    view = json.loads(experiment(records).tags[f"{TAG}{first.key}"])
    wanted = "tags.kind = 'experiment' and tags.dataset = 'cifar10' and tags.model = 'resnet20'"
    assert json.loads(view["state"])["searchFilter"] == wanted and view["name"] == "cifar10, resnet20"
    found = records.client.search_runs([experiment(records).experiment_id], wanted)
    assert {(run.data.tags["method"], run.data.tags[COLOUR]) for run in found} == {
        ("dense", COLOURS[0]),  # as in a report of these runs
        ("ssc", COLOURS[1]),
    }
    assert records.client.get_run(digits).data.tags[COLOUR] == COLOURS[0]
    records.client.set_tag(dense, COLOUR, "#123456")  # as a person does on the page
    records.experiment("a_method", 0, 91.0)
    charts(records.client, experiment(records))
    assert records.client.get_run(dense).data.tags[COLOUR] == "#123456"
    assert {run.data.tags[COLOUR] for run in records.client.search_runs(["1"], "tags.method = 'ssc'")} == {COLOURS[2]}


def test_nothing_recorded_has_the_chart_of_all(records) -> None:
    records.sweep("waiting")
    assert [(chart.key, chart.what, chart.runs) for chart in charts(records.client, experiment(records))] == [
        ("paredown", "", 0)
    ]


def test_colours_are_distinct_for_three_rounds_of_the_palette() -> None:
    found = [colour(index) for index in range(3 * len(COLOURS))]
    assert found[: len(COLOURS)] == list(COLOURS)
    assert len(set(found)) >= len(found) - 1  # black does not get darker
