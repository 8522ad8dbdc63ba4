"""Reports from recorded runs: who is on the front, what it took, what is said of what is missing."""

from __future__ import annotations

import json
import math

import pytest

from paredown.core.errors import UserError
from paredown.frontier.seeds import DOMINATED, ON_FRONT
from paredown.report import runs
from paredown.report.build import build
from paredown.report.conditions import tags
from paredown.report.page import render
from paredown.report.request import Request

DENSE_MACS = 40_813_184  # of ResNet-20


@pytest.fixture(scope="module")
def ask(recorded):
    return lambda **values: build(Request(output=str(recorded.folder), **values))


@pytest.fixture(scope="module")
def whole(ask):
    return ask(sweep="whole", budget="speed_up>=2")


def test_settings_are_runs_under_several_seeds(whole) -> None:
    points = whole.points
    assert points["seeds"].to_dict() == {"dense": 3, "ssc speed_up=4": 3, "ssc speed_up=3": 3}
    assert points["state"].to_dict() == {"dense": ON_FRONT, "ssc speed_up=4": ON_FRONT, "ssc speed_up=3": DOMINATED}
    assert points.loc["dense", "y"] == pytest.approx(91.1)
    assert whole.labelled[0] is whole.points and whole.controls.empty
    assert whole.scope == "resnet20 on cifar10: 3 settings, 9 runs, 3 seeds"
    assert whole.best == ("ssc speed_up=4", []) and whole.chosen.setting == "ssc speed_up=4"
    assert whole.chosen.latency == (4, 2) and whole.chosen.layers[1]["blueprint"]["rank"] == 5


def test_what_is_known_of_a_setting_is_shown_on_hover(whole, make_records) -> None:
    text = whole.points.loc["ssc speed_up=4", "text"]
    for line in (
        "cost/macs",
        "speed_up = 4",
        "to train: 10 epochs, 20 s, 2G MACs",
        "3 seeds: on the front",
        "90.10 ± 0.25",
    ):
        assert line.replace("cost/macs", whole.x.title) in text
    assert whole.points.loc["ssc speed_up=4", "hyperparameters"] == {"speed_up": "4"}
    records = make_records()
    records.experiment("ssc", 0, 90.0, 4, tags={"price": "null"})
    old = build(Request(output=str(records.folder), dataset="cifar10"))
    assert "runs without the training cost of every stage (older version): 1 of 1" in old.missing
    assert "one seed, no interval: on the front" in old.points["text"].iloc[0]


def test_what_is_missing_is_said(whole) -> None:
    assert "runs not shown: 1 failed" in whole.missing
    assert "settings and seeds recorded twice, the last is shown: 1" in whole.missing


def test_shared_stages_are_counted_once(whole) -> None:
    """Nine runs of two stages of 5 epochs: three stages 'pretrain', one a seed, serve three runs each."""
    cost = whole.training_cost
    assert (cost.stages, cost.reused) == (12, 6)
    assert cost.total == {"images": 6000, "other_images": 0, "epochs": 60, "seconds": 120, "macs": 12e9}
    assert cost.saved == {"images": 3000, "other_images": 0, "epochs": 30, "seconds": 60, "macs": 6e9}
    dense = {"images": 1000, "other_images": 0, "epochs": 10, "seconds": 20, "macs": 2e9}
    assert cost.settings.loc["dense"].to_dict() == dense | {"shared": 0.5, "runs": 3}


def test_published_rows_lie_where_their_speed_up_puts_them(whole) -> None:
    """SVD training's ResNet-20: 18 rows with a base; at 3.87x and 90.89 % lies table 3, row 11."""
    rows = whole.published.set_index("id")
    assert len(rows) == 18 and set(rows["paper"]) == {"svd_training"}
    assert rows.loc["svd_training/table3/11", "x"] == pytest.approx(40_813_184 / 3.87)
    assert rows.loc["svd_training/table3/11", "y"] == 90.89
    assert "<b>suspect</b>" in rows.loc["svd_training/table3/5", "text"]
    assert "rows of svd_training without final/top1: 7; 7 of them have gain/top1" in whole.not_compared
    assert "costs counted by conv, where ours are by conv_fc: 18 rows" in whole.not_compared


def test_gains_bring_the_baselines_in(ask) -> None:
    report = ask(sweep="whole", x="cost/speed_up", y="gain/top1")
    assert set(report.published["method"]) >= {"svd_training", "trp", "sfp", "cnn_fcf"}
    assert "runs without gain/top1, not shown: 3 of 9" in report.missing


def test_another_network_is_not_compared(make_records) -> None:
    records = make_records()
    records.experiment("dense", 0, 90.0, params={"model": {"depth": 8, "width": 1, "shortcut": "B", "block": "basic"}})
    report = build(Request(output=str(records.folder), dataset="cifar10"))
    assert report.published.empty
    assert report.not_compared == [
        "rows of svd_training on another network than these runs, resnet20 as in conf/model/resnet20.yaml: 25"
    ]


def test_one_seed_gets_no_interval_and_that_is_said(ask) -> None:
    report = ask(sweep="mixed", dataset="digits")
    assert report.points[["y_low", "y_high"]].isna().all(axis=None)
    assert "settings of one seed, without interval, compared by counted costs alone: 2 of 2" in report.missing
    assert report.chosen.layers is None and any("has no layers.json" in line for line in report.missing)
    assert report.parent is None and all(area.seeds == 1 for area in report.areas.values())
    assert report.not_compared == ["no published row is on digits with resnet20"]


def test_everything_recorded_leaves_debug_runs_out(ask) -> None:
    report = ask(dataset="cifar10", model="resnet20")
    assert "debug runs left out: 1" in report.missing and report.points["y"].min() > 50
    # dense under another recipe is another setting, and says which
    assert {"dense epochs=3", "ssc speed_up=4"} <= set(report.points.index)


def test_certified_points_alone_with_the_layers_that_a_bench_timed(make_records) -> None:
    records = make_records()
    records.experiment("ssc", 0, 95.0, 2)
    with pytest.raises(UserError, match=r"none of 1 runs is certified: python src/export\.py run=ID does that"):
        build(Request(dataset="cifar10", output=str(records.folder), certified=True))
    run = records.experiment("ssc", 0, 90.0, 4, tags={"certified": "onnx"})
    timed = [{"layer": "conv", "dense_ms": 3.0, "ms": None}, {"layer": "layer1.0.conv1", "dense_ms": 2.0, "ms": 0.5}]
    bench = {"layers": timed, "layers_batch": 32, "threads": 1, "device": "cpu", "is_quiet": False}
    records.client.log_text(run, json.dumps(bench), "bench.json")
    report = build(Request(dataset="cifar10", output=str(records.folder), certified=True))
    assert (
        list(report.points.index) == ["ssc speed_up=4"] and "runs without a certificate, left out: 1" in report.missing
    )
    assert [(row["dense_ms"], row["ms"]) for row in report.chosen.layers] == [(3.0, None), (2.0, 0.5)]
    page = render(report)
    assert "batch 32, 1 threads, cpu, while other things ran" in page and "<td>2.000</td><td>0.500</td>" in page


def test_runs_by_id(ask, recorded) -> None:
    found = ask(sweep="whole").runs
    ids = tuple(found["run_id"][:3])
    assert set(ask(runs=ids).runs["run_id"]) == set(ids)


def test_runs_that_a_later_sweep_took_over_still_belong_to_the_first(make_records) -> None:
    records = make_records()
    records.sweep("first", "dense-0", "ssc-0", "ssc-1", "a-folder")
    records.experiment("dense", 0, 90.0, tags={"sweep": "second"})
    renamed = {"sweep": "second", "folder": "a-folder"}  # listed by its folder, whatever its run is called
    records.experiment("snip", 0, 89.5, 4, tags=renamed, params={"method": {"kind": "snip"}})
    records.experiment("ssc", 0, 89.0, 4, tags={"sweep": "first"})
    records.experiment("ssc", 7, 88.0, 4, tags={"sweep": "second"})
    report = build(Request(output=str(records.folder), sweep="first"))
    assert sorted(report.runs["name"]) == ["dense-0", "snip-0", "ssc-0"]
    assert "experiments of the sweep that have not begun: 1" in report.missing


def test_two_sets_of_images_of_one_name_are_no_seeds_of_one_setting(make_records) -> None:
    records = make_records()
    for seed, images in enumerate(("cats", "xray", "xray")):
        records.experiment("dense", seed, 90.0 - seed, 1, tags={"sweep": "photos", "images": images})
    records.experiment("ssc", 0, 88.0, 4, tags={"sweep": "photos"})  # recorded before the tag
    with pytest.raises(UserError, match=r"2 different sets of images are called cifar10, in 2, 1 runs"):
        build(Request(output=str(records.folder), sweep="photos"))


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"sweep": "waiting"}, r"waiting: no run is finished yet \(runs not shown: 1 running\)"),
        (
            {"sweep": "mixed"},
            r"several data sets, digits \(2\), cifar10 \(1\): one front needs one, give",
        ),
        ({"sweep": "whol"}, "nothing is recorded of sweep 'whol': did you mean whole"),
        ({"dataset": "cifar1"}, "nothing is recorded of dataset 'cifar1': did you mean cifar10"),
        ({"sweep": "whole", "dataset": "digits"}, "nothing is recorded of sweep whole and dataset digits together"),
        (
            {"sweep": "whole", "y": "final/top2"},
            "no metric 'final/top2' is recorded in these runs: did you mean final/top1",
        ),
        ({"sweep": "whole", "budget": "speed_up=3"}, "cannot read budget 'speed_up=3'"),
        ({"runs": ("0123456789abcdef",)}, "no run '0123456789abcdef' is recorded"),
        ({"sweep": "whole", "uri": "ftp://host"}, "is no tracking URI"),
    ],
)
def test_a_mistake_is_one_line(ask, values, line) -> None:
    with pytest.raises(UserError, match=line) as caught:
        ask(**values)
    assert "\n" not in str(caught.value)


def test_no_records_at_all(tmp_path) -> None:
    with pytest.raises(UserError, match=r"nothing is recorded in .*mlflow\.db: give output=FOLDER or tracking\.uri"):
        build(Request(sweep="a", output=str(tmp_path)))
    assert not list(tmp_path.iterdir())  # asking makes no database


def test_what_does_not_compare_is_refused(make_records) -> None:
    records = make_records()
    records.experiment("dense", 0, 90.0)
    records.experiment("dense", 0, 92.0, tags={"model": "resnet32", "device": "gpu"}, params={"model": {"depth": 32}})
    for x, line in (
        ("cost/speed_up", "each model's own dense network"),
        ("latency/ms", "on several devices, cpu, gpu"),
    ):
        with pytest.raises(UserError, match=line):
            build(Request(output=str(records.folder), dataset="cifar10", x=x))
    report = build(Request(output=str(records.folder), dataset="cifar10"))
    assert len(report.points) == 2 and list(report.points["method"]) == ["dense", "dense"]
    assert set(report.labelled[0]["method"]) == {"dense, resnet20", "dense, resnet32"}  # told apart in the figure


def test_a_training_cost_that_mlflow_cut_is_unknown(make_records) -> None:
    records = make_records()
    records.experiment("dense", 0, 91.0)
    stage = {"images": 500, "other_images": 0, "epochs": 5, "seconds": 10.0, "macs": 1e9}
    cut = json.dumps([{"key": f"{n:020}"} | stage for n in range(100)])  # MLflow keeps 8,000 characters of a tag
    records.experiment("lottery", 0, 90.0, 4, tags={"price": cut})
    report = build(Request(dataset="cifar10", uri=records.uri))
    assert report.training_cost.unknown == 1 and list(report.training_cost.settings.index) == ["dense"]


@pytest.fixture(scope="module")
def timed(make_records):
    """Three settings of three seeds, two of them timed once, on one device."""
    records = make_records()
    for seed in range(3):
        records.experiment("dense", seed, 91.0 + seed, **({"bench__ms_b1": 3.0} if not seed else {}))
        records.experiment("ssc", seed, 85.0 + seed, 4, **({"bench__ms_b1": 1.0} if not seed else {}))
        records.experiment("ssc", seed, 88.0 + seed, 2)
    return records


def test_a_budget_on_what_was_measured_once_leaves_every_seed(timed) -> None:
    report = build(Request(dataset="cifar10", budget="bench/ms_b1<=2", uri=timed.uri))
    assert report.best == ("ssc speed_up=4", []) and len(report.runs) == 9
    assert list(report.points["seeds"]) == [3, 3, 3] and report.points.loc["ssc speed_up=4", "y"] == 86
    assert "settings without bench/ms_b1, which the budget leaves out: 1 of 3" in report.missing
    assert not any("not shown" in line for line in report.missing)


def test_a_budget_on_what_two_devices_measured_is_refused(timed) -> None:
    timed.experiment("ssc", 0, 80.0, 8, tags={"device": "cuda"}, bench__ms_b1=0.1)
    with pytest.raises(UserError, match="bench/ms_b1 was measured on several devices, cpu, cuda"):
        build(Request(dataset="cifar10", budget="bench/ms_b1<=2", uri=timed.uri))
    build(Request(dataset="cifar10", budget="macs<=1e9", uri=timed.uri))


def test_no_setting_under_the_budget(ask) -> None:
    report = ask(sweep="whole", budget="speed_up>=100")
    assert report.best is None and "no setting keeps cost/speed_up >= 100" in report.missing


def test_debug_runs_named_by_id_are_kept_beside_others(make_records) -> None:
    records = make_records()
    ids = [records.experiment("dense", 0, 90.0), records.experiment("ssc", 0, 80.0, 4, tags={"debug": "fast"})]
    report = build(Request(output=str(records.folder), runs=tuple(ids)))
    assert set(report.runs["run_id"]) == set(ids)
    assert "debug runs among these, whose numbers mean nothing: 1" in report.missing


def test_links_lead_to_the_server_that_holds_the_runs(recorded, ask, monkeypatch) -> None:
    address = recorded.folder / "dashboard.url"
    for text, server in (
        (None, "http://paredown.localhost:5000/"),
        ("http://paredown.localhost:5003\n", "http://paredown.localhost:5003/"),
        ("javascript:alert(1)", "http://paredown.localhost:5000/"),
        ("http://paredown.localhost:5003@evil", "http://paredown.localhost:5000/"),
    ):
        if text:
            address.write_text(text)
        assert set(ask(sweep="mixed", dataset="digits").runs["link"].str.startswith(server)) == {True}
    address.unlink()
    monkeypatch.setattr(runs, "connect", lambda uri: recorded.client)
    remote = runs.read(Request(sweep="mixed", dataset="digits", uri="http://user:password@host:1")).runs
    assert set(remote["link"].str.startswith("http://host:1/")) == {True}


@pytest.fixture(scope="module")
def widths(make_records):
    """Dense networks of two widths, and what is compressed 2x of each."""
    records = make_records()
    for seed in range(2):
        for width, macs in ((1, DENSE_MACS), (0.5, DENSE_MACS / 4)):
            model = {"model": {"depth": 20, "width": width}}
            records.experiment("dense", seed, 91.0, params=model, cost__macs=macs, cost__dense_macs=macs)
            own = {"cost__macs": macs / 2, "cost__dense_macs": macs, "gain__top1": -1.0}
            records.experiment("ssc", seed, 90.0, 2, params=model, **own)
    return records


@pytest.mark.parametrize("asked", [{"x": "cost/speed_up"}, {"budget": "speed_up>=2"}, {"y": "gain/top1"}])
def test_compressions_of_two_dense_networks_share_no_relative_axis(widths, asked) -> None:
    line = "is relative to dense networks of several sizes, 10.2M, 40.8M MACs: give runs=.* or cost/macs in its place"
    with pytest.raises(UserError, match=line):
        build(Request(dataset="cifar10", uri=widths.uri, **asked))


def test_a_smaller_dense_network_stands_beside_compressions_of_a_larger_one(widths) -> None:
    every = build(Request(dataset="cifar10", uri=widths.uri))
    assert len(every.points) == 4
    large = every.runs[(every.runs["method"] == "dense") | (every.runs["cost/dense_macs"] == DENSE_MACS)]
    report = build(Request(runs=tuple(large["run_id"]), uri=widths.uri, x="cost/speed_up", budget="speed_up>=2"))
    assert len(report.points) == 3 and report.best is not None


def test_times_of_several_conditions_are_refused_and_loud_ones_said(make_records) -> None:
    records = make_records()
    records.experiment("dense", 0, 91.0, bench__ms_b1=3.0)  # by an older version, which recorded no conditions
    records.experiment("ssc", 0, 90.0, 2, tags=tags([1, 32], 1, "auto", "cpu", False), bench__ms_b1=2.0)
    report = build(Request(dataset="cifar10", uri=records.uri, x="bench/ms_b1"))
    assert len(report.points) == 2
    assert "runs whose bench/ms_b1 was timed while other things ran: 1" in report.missing
    records.experiment("ssc", 0, 89.0, 4, tags=tags([1], 2, "plain", "cpu", True), bench__ms_b1=1.0)
    with pytest.raises(UserError, match=r"several conditions, threads=1 deploy=auto on cpu, threads=2 deploy=plain on"):
        build(Request(dataset="cifar10", uri=records.uri, x="bench/ms_b1"))
    build(Request(dataset="cifar10", uri=records.uri))


def test_a_metric_does_not_replace_what_is_known_of_a_run(make_records) -> None:
    records = make_records()
    names = dict.fromkeys((*runs.COLUMNS, *runs.TAGS), 1.0)
    run = records.experiment("ssc", 0, 90.0, 2)
    for name, value in names.items():
        records.client.log_metric(run, name, value)
    found = runs.read(Request(dataset="cifar10", uri=records.uri))
    row = found.runs.iloc[0]
    assert (row["setting"], row["control"], row["run_id"]) == ("ssc speed_up=2", "", run)
    assert not {*names} & {*found.metrics} and {*found.runs.columns} == {*names, *found.metrics}
    with pytest.raises(UserError, match="no metric 'setting' is recorded"):
        build(Request(dataset="cifar10", uri=records.uri, y="setting"))


@pytest.mark.parametrize("value", [math.inf, -math.inf, -1e308])
def test_a_value_that_cannot_be_drawn_is_left_out_and_said(make_records, value) -> None:
    records = make_records()
    for seed in range(2):
        records.experiment("dense", seed, 91.0, train__loss=0.1)
        records.experiment("ssc", seed, 90.0, 2, train__loss=value)
    report = build(Request(dataset="cifar10", uri=records.uri, y="train/loss"))
    assert list(report.points.index) == ["dense"]
    assert "runs whose train/loss is beyond 1e+100, not shown: 2 of 4" in report.missing


ENTRY = {"key": "a", "images": 5, "epochs": 5, "seconds": 10.0, "macs": 1e9}


@pytest.mark.parametrize(
    "price",
    [
        [1, 2],
        {"a": 1},
        3,
        [{"key": "a"}],
        [ENTRY | {"key": 1}],
        [ENTRY | {"seconds": "long"}, ENTRY],
        [ENTRY | {"macs": 1e999}],
        [ENTRY | {"epochs": 10**400}],
    ],
)
def test_a_training_cost_of_another_shape_is_unknown(make_records, price) -> None:
    records = make_records()
    records.experiment("dense", 0, 91.0, tags={"price": json.dumps(price)})
    report = build(Request(dataset="cifar10", uri=records.uri))
    assert report.training_cost.unknown == 1 and report.runs["price"].iloc[0] is None
