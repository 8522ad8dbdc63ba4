"""The leaderboard: from recorded runs to its data, and from the data to its page."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest

from paredown.cli import choices, comparison
from paredown.core.errors import UserError
from paredown.report import leaderboard, leaderboard_data, leaderboard_picture, runs
from paredown.report.request import Request

ROOT = Path(__file__).parents[2]
DATA = ROOT / "docs" / "leaderboard.csv"


@pytest.fixture(scope="module")
def written(recorded, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("leaderboard")
    words = ["--sweep", "whole", "--uri", recorded.uri, "--folder", str(folder)]
    subprocess.run([sys.executable, str(ROOT / "scripts" / "leaderboard.py"), *words], check=True, timeout=120)
    return folder


def test_every_run_is_a_row_of_the_data(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    assert len(table) == 9 and list(table["setting"].unique()) == ["dense", "ssc speed_up=3", "ssc speed_up=4"]
    assert list(table[table["method"] == "dense"]["top1"]) == pytest.approx([91.0, 91.1, 91.2])
    assert "code" in table and table["ms_b1"].isna().all() and (table["control"] == "").all()  # nothing was timed
    # a plan is two trainings of 10 s, the first of them shared by the runs of its seed
    assert list(table["trainings"]) == [2, 2, 2, *6 * [1]] and table["hours"].sum() == pytest.approx(12 * 10 / 3600)


def test_the_page_ranks_the_settings_and_tells_them_apart(written) -> None:
    text = (written / "leaderboard.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [row[1] for row in rows] == ["dense", "ssc speed_up=3", "ssc speed_up=4"]
    assert [row[3] for row in rows] == ["91.10", "80.10", "90.10"]
    intervals = ["90.85 to 91.35", "79.85 to 80.35", "89.85 to 90.35"]
    assert [row[4] for row in rows] == intervals  # t(0.975, 2) 0.1 / sqrt(3) = 0.25
    titles = [line for line in text.splitlines() if line.startswith("### ")]
    assert titles == ["### Dense", "### 3x fewer multiply-adds", "### 4x fewer multiply-adds"]
    assert "resnet20 on cifar10" in text and "2 methods, 3 settings, 0 controls" in text
    assert "12 trainings, 0.0 hours of all processes together" in text
    assert "are told apart" not in text.split("## Ranks")[0]  # no two of them have one target
    assert (written / "leaderboard.png").read_bytes().startswith(b"\x89PNG")


def test_settings_of_one_target_are_ranked_together_beside_dense_networks_of_as_many_macs(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    another = table[table["setting"] == "ssc speed_up=4"].assign(setting="trp speed_up=4", method="trp")
    another["top1"] -= [2.0, 1.0, 0.0]  # 88.0, 89.1, 90.2
    macs = table.loc[table["method"] == "dense", "macs"].iloc[0]
    dense = table[table["method"] == "dense"].assign(key="other", speed_up=1.0)
    narrow = dense.assign(setting="dense width=0.5", macs=macs / 4.3, top1=89.0)
    narrower = dense.assign(setting="dense width=0.4", macs=macs / 4.5, top1=89.0)
    text = leaderboard.page(pandas.concat([table, another, narrow, narrower]), "", "")
    part = text.split("### 4x fewer multiply-adds")[1].split("##")[0]
    rows = [line.split(" | ") for line in part.splitlines() if line[:2] == "| " and line[2].isdigit()]
    assert [row[1] for row in rows] == ["ssc speed_up=4", "trp speed_up=4", "dense width=0.5"]
    assert "dense width=0.4" in text.split("### Dense")[1].split("###")[0]


def test_targets_are_sorted_by_their_value_and_a_setting_without_one_is_ranked_apart(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    targets = {"ssc speed_up=3": "sparsity=0.98", "ssc speed_up=4": "sparsity=0.9", "dense": "none"}
    loose = table[table["method"] == "dense"].assign(setting="beta_lasso", method="beta_lasso")
    table = table.assign(target=table["setting"].map(targets))
    text = leaderboard.page(pandas.concat([table, loose]), "", "")
    titles = [line for line in text.splitlines() if line.startswith("### ")]
    assert titles == ["### Dense", "### 90 % sparsity", "### 98 % sparsity", "### Without a target"]


def test_a_setting_that_missed_its_target_says_so(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    assert "missed)" not in leaderboard.page(table, "", "")
    far = table["setting"] == "ssc speed_up=4"
    reached = np.where(far, 3.7, table["speed_up"])  # 5 % of 4 is 0.2
    table = table.assign(macs=table["macs"] * table["speed_up"] / reached, speed_up=reached)
    assert "| ssc speed_up=4 (missed) |" in leaderboard.page(table, "", "")


def narrow(table: pandas.DataFrame) -> pandas.DataFrame:
    """The settings of `table`, three quarters of whose channels are gone in the dense network, too."""
    names = {name: table[name] + " width=0.25" for name in ("setting", "key")}
    return table.assign(macs=table["macs"] / 16, **names)


def test_a_target_is_of_its_own_dense_network(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    text = leaderboard.page(pandas.concat([table, narrow(table)]), "", "")
    assert "missed)" not in text
    whole, smaller = text.split("### 4x fewer multiply-adds")[1:]
    assert "| ssc speed_up=4 |" in whole and "width=0.25" not in whole.split("##")[0]
    assert smaller.startswith(", of a dense network of 2,550,824 MACs") and "| ssc speed_up=4 width=0.25 |" in smaller
    assert "| 64.00x |" in smaller


def test_a_smaller_dense_control_meets_the_target_of_its_point(written) -> None:
    table = narrow(leaderboard_data.load(written / "leaderboard.csv"))
    point = table[table["setting"] == "ssc speed_up=4 width=0.25"]
    control = point.assign(setting="c", control="dense", of=point["setting"], speed_up=1.0, key="c")
    wide = leaderboard_data.load(written / "leaderboard.csv")
    assert "c (missed)" not in leaderboard.page(pandas.concat([wide, table, control]), "", "")
    far = control.assign(macs=control["macs"] * 2)
    assert "c (missed)" in leaderboard.page(pandas.concat([wide, table, far]), "", "")


def test_a_latency_that_was_not_reached_is_missed(make_records, tmp_path) -> None:
    records = make_records()
    asked = {"sweep": "timed", "target": "latency_speed_up=2"}
    for seed in range(2):
        records.experiment("dense", seed, 91.0 + seed, tags={"sweep": "timed"})
        records.experiment("ssc", seed, 90.0 + seed, 2, tags=asked, latency__speed_up=1.2)
        other = {"method": {"name": "trp"}}
        records.experiment("trp", seed, 90.0 + seed, 2, tags=asked, params=other, latency__speed_up=1.9)
    board = leaderboard_data.collect(runs.read(Request(sweep="timed", uri=records.uri)).runs)
    leaderboard_data.write(board, "timed", tmp_path)
    text = leaderboard.page(leaderboard_data.load(tmp_path / "leaderboard.csv"), "", "")
    assert "| ssc latency_speed_up=2 (missed) |" in text and "| trp latency_speed_up=2 |" in text


def test_the_file_has_a_measured_speed_up_only_where_a_run_has_one(written) -> None:
    assert "latency_speed_up" not in (written / "leaderboard.csv").read_text()
    assert leaderboard_data.load(written / "leaderboard.csv")["latency_speed_up"].isna().all()


def test_where_no_setting_sees_images_that_is_said(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    table = table[table["method"] != "dense"].assign(compression_images=0)
    with pytest.raises(UserError, match="cannot be ranked: no setting sees training images"):
        leaderboard.page(table, "", "")


@pytest.mark.parametrize(
    ("odd", "line"),
    [
        ({"final__top1": math.nan}, "has final/top1 nan"),
        ({"cost__macs": -5.0}, "has cost/macs -5.0"),
        ({"price__images": math.inf}, "has price/images 1.79.*"),  # MLflow's infinity
        ({"tags": {"seed": ""}}, "has no seed"),
        ({"tags": {"seed": "first"}}, "has seed first"),
    ],
)
def test_a_run_that_cannot_be_ranked_is_named(make_records, odd, line) -> None:
    records = make_records()
    records.experiment("dense", 0, 91.0)
    run = records.experiment("ssc", 1, 90.0, 2, **odd)
    with pytest.raises(UserError, match=rf"run ssc-1 \({run}\) {line}: it cannot be ranked; delete it in MLflow"):
        leaderboard_data.collect(runs.read(Request(dataset="cifar10", uri=records.uri)).runs)


def test_a_training_cost_of_another_shape_stops_no_board(make_records) -> None:
    records = make_records()
    records.experiment("dense", 0, 91.0, tags={"price": '[{"key": "a"}, 2]'})
    table = leaderboard_data.collect(runs.read(Request(dataset="cifar10", uri=records.uri)).runs).table
    assert list(table["trainings"]) == [0]


def test_names_of_the_user_are_no_markdown(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    names = {"ssc speed_up=3": "a|b <script>alert(1)</script>", "ssc speed_up=4": "[x](javascript:alert(1)) `c\n"}
    table = table.assign(setting=table["setting"].replace(names), device="<b>|")
    text = leaderboard.page(table, "", "")
    assert "| a&#124;b &lt;script&gt;alert(1)&lt;/script&gt; | 3 |" in text and "Trained on &lt;b&gt;&#124;:" in text
    assert "| &#91;x&#93;(javascript:alert(1)) &#96;c&#92;n | 3 |" in text
    once = table.assign(compression_images=np.where(table["setting"] == names["ssc speed_up=3"], 0, 1))
    once = once[(once["compression_images"] == 1) | (once["seed"] == 0)]
    assert "no setting has two seeds: a&#124;b &lt;script" in leaderboard.page(once, "", "")


def test_the_pairs_of_every_table_count_once(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    dense = table[table["method"] == "dense"].assign(key="other", setting="dense width=0.5", top1=80.0)
    macs = table.loc[table["method"] == "dense", "macs"].iloc[0]
    two = [dense.assign(macs=macs / 4), dense.assign(setting="dense width=0.4", macs=macs / 4.2)]
    text = leaderboard.page(pandas.concat([table, *two]), "", "")
    assert "Of 5 pairs of settings that are ranked together" in text  # three of dense networks, two with SSC at 4x


def test_one_leaderboard_is_of_one_model_and_one_data_set(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    for name in ("model", "dataset"):
        other = table.assign(**{name: "other"})
        with pytest.raises(UserError, match=f"a leaderboard is of one {name}, these runs are of .*other"):
            leaderboard.page(pandas.concat([table, other]), "", "")


def test_one_timed_seed_of_a_setting_is_enough(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    table.loc[table["setting"] == "dense", "ms_b1"] = [1.5, math.nan, math.nan]
    row = next(line for line in leaderboard.page(table, "", "").splitlines() if line.startswith("| 1 | dense"))
    assert row.split(" | ")[10] == "1.5"


def test_a_compressed_network_is_timed_against_the_dense_one_and_a_dense_one_against_none(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv").assign(ms_b1=2.0, dense_ms_b1=3.0)
    rows = [
        line.split(" | ")
        for line in leaderboard.page(table, "", "").splitlines()
        if line[:2] == "| " and line[2].isdigit()
    ]
    expected = {"dense": "2", "ssc speed_up=4": "2 (1.50x)", "ssc speed_up=3": "2 (1.50x)"}
    assert {row[1]: row[10] for row in rows} == expected


def test_what_sees_no_image_is_ranked_apart(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    table.loc[table["setting"] == "ssc speed_up=3", "compression_images"] = 0
    table.loc[table["setting"] == "ssc speed_up=3", "top1"] = [10.0, 50.0, 90.0]
    ranks, without = leaderboard.page(table, "", "").split("## Without training data")
    assert "| 1 | ssc speed_up=4 | 3 | 90.10 | 89.85 to 90.35 | 0.10 | a |" in ranks
    assert "ssc speed_up=3" not in ranks
    assert "| 1 | ssc speed_up=3 | 3 | 50.00 | 0.00 to 100.00 | 40.00 | a |" in without
    assert "Without training data" not in leaderboard.page(table.assign(compression_images=0, method="dense"), "", "")


def test_the_seeds_of_a_setting_stay_together_whatever_older_versions_recorded(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    ours = table["setting"] == "ssc speed_up=3"
    table.loc[ours, "compression_images"] = [0.0, math.nan, 0.0]
    seen, unseen = leaderboard.split(table)
    assert len(unseen) == 3 and set(unseen["setting"]) == {"ssc speed_up=3"} and len(seen) == 6
    table.loc[ours, "compression_images"] = [math.nan, 0.0, 500.0]
    assert leaderboard.split(table)[1].empty


def test_a_smaller_dense_network_has_fewer_macs_than_the_dense_one(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    smaller = table["setting"] == "ssc speed_up=3"
    table.loc[smaller, ["method", "macs", "speed_up"]] = ["dense", 4e6, 1.0]  # it is recorded against itself
    lines = [line.split(" | ") for line in leaderboard.page(table, "", "").splitlines()]
    rows = {line[1].removesuffix(" (missed)"): line[8] for line in lines if len(line) > 8}
    assert rows["dense"] == "1.00x" and rows["ssc speed_up=4"] == "4.00x" and rows["ssc speed_up=3"] == "10.20x"
    assert "| 4.00x |" in leaderboard.page(table[~smaller & (table["method"] != "dense")], "", "")


def test_speed_ups_are_against_the_dense_network_however_the_seeds_differ(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    whole = table.loc[table["method"] == "dense", "macs"].iloc[0]
    ours = table["setting"] == "ssc speed_up=4"
    reached = np.where(ours, 4 + 0.15 * (table["seed"] - 1), table["speed_up"])
    table = table.assign(speed_up=reached, macs=whole / reached)
    rows = [line.split(" | ") for line in leaderboard.page(table, "", "").splitlines() if " | " in line]
    shown = {row[1]: row[8] for row in rows if len(row) > 8}
    mean = (1 / 3.85 + 1 / 4 + 1 / 4.15) / 3
    assert shown["dense"] == "1.00x" and shown["ssc speed_up=3"] == "3.00x"
    assert shown["ssc speed_up=4"] == f"{1 / mean:.2f}x"


def test_a_setting_of_one_seed_has_an_interval_and_no_deviation(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    once = table[(table["setting"] != "ssc speed_up=3") | (table["seed"] == 1)]
    once["target"] = once["target"].replace("speed_up=3", "speed_up=4")
    # t(0.975, 2) 0.1 = 0.43
    assert "| 2 | ssc speed_up=3 (missed) | 1 | 80.10 | 79.67 to 80.53 |  | b |" in leaderboard.page(once, "", "")
    assert "nan" not in leaderboard.page(once.assign(macs=math.nan, speed_up=math.nan), "", "")
    alone = once.assign(compression_images=(once["setting"] != "ssc speed_up=3") * 1.0)
    text = leaderboard.page(alone, "", "")
    assert "| 1 | ssc speed_up=4" in text
    assert "Not ranked yet, since no setting has two seeds: ssc speed_up=3." in text


def test_one_seed_ranks_nothing(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    with pytest.raises(UserError, match="no setting has two seeds: nothing says how much they vary"):
        leaderboard.page(table[table["seed"] == 0], "", "")


def test_a_board_grows_by_the_runs_of_another_machine(recorded, written, tmp_path) -> None:
    """As if dense and speed_up=3 had been published by a machine whose store is gone."""
    both = leaderboard_data.read(written, "whole")
    gone = both.table["setting"] != "ssc speed_up=4"
    old = both.table[gone].assign(setting=lambda t: t["setting"].replace("ssc speed_up=3", "ssc"), top1=50.0)
    folder = tmp_path / "docs"
    folder.mkdir()
    leaderboard_data.write(leaderboard_data.Board(old, both.settings), "whole", folder)
    here = both.table[~gone | (both.table["method"] == "dense")]
    new = leaderboard_data.Board(here, {name: both.settings[name] for name in here["key"].unique()})
    found = leaderboard_data.join(new, leaderboard_data.read(folder, "whole"))
    means = found.table.groupby("setting")["top1"].mean()
    assert dict(means) == pytest.approx({"dense": 91.1, "ssc speed_up=3": 50.0, "ssc speed_up=4": 90.1})  # ours first
    assert len(found.table) == 9 and set(found.settings) == set(both.settings)
    # the same command on the same store changes nothing
    leaderboard_data.write(found, "whole", folder)
    again = leaderboard_data.join(new, leaderboard_data.read(folder, "whole"))
    pandas.testing.assert_frame_equal(again.table, found.table, check_dtype=False)


def test_what_was_published_and_is_not_recorded_here_stays(recorded, written, tmp_path) -> None:
    folder = tmp_path / "docs"
    shutil.copytree(written, folder)
    table = leaderboard_data.load(folder / "leaderboard.csv")
    lost = table.iloc[[0]].assign(seed=7, top1=12.34)
    pandas.concat([table, lost]).to_csv(folder / "leaderboard.csv", index=False)
    command = [sys.executable, str(ROOT / "scripts" / "leaderboard.py"), "--uri", recorded.uri, "--folder", str(folder)]
    subprocess.run([*command, "--sweep", "whole"], check=True, timeout=120)
    after = leaderboard_data.load(folder / "leaderboard.csv")
    assert len(after) == 10 and after.loc[after["seed"] == 7, "top1"].tolist() == [12.34]
    done = subprocess.run([*command, "--sweep", "other"], check=False, timeout=120, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1


def test_the_files_of_two_boards_are_not_mixed(written, tmp_path) -> None:
    folder = tmp_path / "docs"
    shutil.copytree(written, folder)
    with pytest.raises(UserError, match="holds the leaderboard of sweep 'whole': give another --folder"):
        leaderboard_data.read(folder, "leaderboard_cifar10")
    settings = folder / "leaderboard_settings.json"
    text = settings.read_text()
    settings.write_text(text.replace('"speed_up": "4"', '"speed_up": "5"'))
    with pytest.raises(UserError, match=r"lacks settings of leaderboard.csv, such as \w+: take both from one commit"):
        leaderboard_data.read(folder, "whole")
    settings.write_text(text[:-20])
    with pytest.raises(UserError, match="take both files from one commit"):
        leaderboard_data.read(folder, "whole")
    settings.write_text(text)
    whole = (folder / "leaderboard.csv").read_text()
    for old, new, why in (
        (",0,resnet20", ",zero,resnet20", "column seed has more than whole numbers"),
        (",0,resnet20", ",0.5,resnet20", "column seed has more than whole numbers"),
        (",0,resnet20", ",1,resnet20", "a run stands there twice"),
        (",speed_up=3,", ",speed_up=fast,", "'speed_up=fast' is no target"),
        (",speed_up=3,", ",speed_up=0.5,", "speed_up=0.5 is not above 1"),
        (",91,", ",high,", "column top1 has more than numbers"),
        (",91,", ",1e9,", "a row is cut, or its top1 is no percentage"),
        (whole, whole[: len(whole) // 2], "a row is cut"),
    ):
        assert old in whole
        (folder / "leaderboard.csv").write_text(whole.replace(old, new, 1))
        with pytest.raises(UserError, match=f"leaderboard.csv is no leaderboard's data: {why}"):
            leaderboard_data.read(folder, "whole")
    table = leaderboard_data.load(written / "leaderboard.csv")
    for column, value in (("images", math.inf), ("trainings", math.inf), ("macs", -5), ("hours", -1), ("sparsity", 2)):
        table.assign(**{column: float(value)}).to_csv(folder / "leaderboard.csv", index=False)
        with pytest.raises(UserError, match=f"is no leaderboard's data: column {column} has {float(value):g}"):
            leaderboard_data.read(folder, "whole")
    (folder / "leaderboard.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="is no leaderboard's data: it has no column setting, method"):
        leaderboard_data.read(folder, "whole")


def test_claims_without_both_sides_stand_apart(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    text = leaderboard.page(table, "", "")
    assert "| claim | here |" not in text and "Cannot be judged yet (" in text
    assert "* magnitude after training is above SNIP at 98 %, not run: magnitude sparsity=0.98, snip spars" in text
    names = {"dense": "dense width=0.6875", "ssc speed_up=4": "zhang speed_up=2", "ssc speed_up=3": "ssc"}
    named = table.assign(setting=table["setting"].replace(names))
    assert "than a point below Zhang at 2x, not run at equal cost: dense width=0.6875" in leaderboard.page(
        named, "", ""
    )
    named["macs"] = named["macs"].where(named["method"] != "dense", named["macs"] / 4)
    text = leaderboard.page(named, "", "")
    assert "| a smaller dense network is less than a point below Zhang at 2x | held | +1.00 |" in text
    assert text.count("Zhang") == 1 and "Jaderberg at 2x, not run: jaderberg speed_up=2" in text


def test_times_of_one_device_are_shown(written) -> None:
    table = leaderboard_data.load(written / "leaderboard.csv")
    table["ms_b1"] = table["setting"].map({"dense": 3.25, "ssc speed_up=3": 1.5, "ssc speed_up=4": 1.75})
    table["device"] = table["setting"].map({"dense": "this", "ssc speed_up=3": "this", "ssc speed_up=4": "that"})
    text = leaderboard.page(table, "", "")
    assert "3.25" in text and "1.5 |" in text and "1.75" not in text
    assert table["ms_b1"].notna().all()


@pytest.mark.skipif(not DATA.exists(), reason="docs/ has no leaderboard yet")
def test_the_committed_page_follows_from_the_committed_data(tmp_path) -> None:
    table = leaderboard_data.load(DATA)
    assert (ROOT / "docs" / "leaderboard.md").read_text() == leaderboard.page(table, "leaderboard.png", DATA.name)
    seen, _ = leaderboard.split(table)
    leaderboard_picture.save(seen, leaderboard.half_widths(leaderboard.rankings(seen)), tmp_path / "picture.png")
    assert set(leaderboard_data.read(DATA.parent, "leaderboard_cifar10").settings) == set(table["key"])


@pytest.mark.skipif(not DATA.exists(), reason="docs/ has no leaderboard yet")
def test_the_cards_have_the_numbers_of_the_board() -> None:
    means = leaderboard_data.load(DATA).groupby(["method", "setting"])["top1"].mean()
    cards = {name: str(choices.metadata(name)["ours"]) for name in comparison.methods()}
    of_board = {name: text for name, text in cards.items() if "200,000 images" in text}
    assert set(of_board) == set(means.index.get_level_values("method"))
    for name, text in of_board.items():
        own, dense = {f"{mean:.2f}" for mean in means[name]}, {f"{mean:.2f}" for mean in means["dense"]}
        given = re.findall(r"(\d+\.\d+) %", text)
        assert given and set(given) <= own | dense, name
        assert name == "dense" or f"; dense {means['dense'].max():.2f} %" in text
