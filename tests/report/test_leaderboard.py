"""The leaderboard: from recorded runs to its data, and from the data to its page."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from paredown.core.errors import UserError
from paredown.report import leaderboard, leaderboard_picture

ROOT = Path(__file__).parents[2]
DATA = ROOT / "docs" / "leaderboard.csv"


@pytest.fixture(scope="module")
def written(recorded, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("leaderboard")
    words = ["--sweep", "whole", "--uri", recorded.uri, "--folder", str(folder)]
    subprocess.run([sys.executable, str(ROOT / "scripts" / "leaderboard.py"), *words], check=True, timeout=120)
    return folder


def test_every_run_is_a_row_of_the_data(written) -> None:
    table = leaderboard.load(written / "leaderboard.csv")
    assert len(table) == 9 and list(table["setting"].unique()) == ["dense", "ssc speed_up=3", "ssc speed_up=4"]
    assert list(table[table["method"] == "dense"]["top1"]) == pytest.approx([91.0, 91.1, 91.2])
    assert "code" in table and table["ms_b1"].isna().all() and (table["control"] == "").all()  # nothing was timed
    # a plan is two trainings of 10 s, the first of them shared by the runs of its seed
    assert list(table["trainings"]) == [2, 2, 2, *6 * [1]] and table["hours"].sum() == pytest.approx(12 * 10 / 3600)


def test_the_page_ranks_the_settings_and_tells_them_apart(written) -> None:
    text = (written / "leaderboard.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]
    assert [row[1] for row in rows] == ["dense", "ssc speed_up=4", "ssc speed_up=3"]
    assert [row[6] for row in rows] == ["a", "b", "c"]
    assert [row[3] for row in rows] == ["91.10", "90.10", "80.10"]
    intervals = ["90.96 to 91.24", "89.96 to 90.24", "79.96 to 80.24"]
    assert [row[4] for row in rows] == intervals  # t(0.975, 6) 0.1 / sqrt(3) = 0.14
    assert "resnet20 on cifar10" in text and "2 methods, 3 settings, 0 controls" in text
    assert "12 trainings, 0.0 hours of all processes together" in text
    assert "100 % are told apart" in text
    assert (written / "leaderboard.png").read_bytes().startswith(b"\x89PNG")


def test_one_timed_seed_of_a_setting_is_enough(written) -> None:
    table = leaderboard.load(written / "leaderboard.csv")
    table.loc[table["setting"] == "dense", "ms_b1"] = [1.5, math.nan, math.nan]
    row = next(line for line in leaderboard.page(table, "", "").splitlines() if line.startswith("| 1 | dense"))
    assert row.split(" | ")[10] == "1.5"


def test_what_sees_no_image_is_ranked_apart(written) -> None:
    table = leaderboard.load(written / "leaderboard.csv")
    table.loc[table["setting"] == "ssc speed_up=3", "compression_images"] = 0
    table.loc[table["setting"] == "ssc speed_up=3", "top1"] = [10.0, 50.0, 90.0]
    ranks, without = leaderboard.page(table, "", "").split("## Without training data")
    assert "| 2 | ssc speed_up=4 | 3 | 90.10 | 89.94 to 90.26 | 0.10 | b |" in ranks  # t(0.975, 4) 0.1 / sqrt(3) = 0.16
    assert "ssc speed_up=3" not in ranks
    assert "| 1 | ssc speed_up=3 | 3 | 50.00 | 0.00 to 100.00 | 40.00 | a |" in without
    assert "Without training data" not in leaderboard.page(table.assign(compression_images=0, method="dense"), "", "")


def test_the_seeds_of_a_setting_stay_together_whatever_older_versions_recorded(written) -> None:
    table = leaderboard.load(written / "leaderboard.csv")
    ours = table["setting"] == "ssc speed_up=3"
    table.loc[ours, "compression_images"] = [0.0, math.nan, 0.0]
    seen, unseen = leaderboard.split(table)
    assert len(unseen) == 3 and set(unseen["setting"]) == {"ssc speed_up=3"} and len(seen) == 6
    table.loc[ours, "compression_images"] = [math.nan, 0.0, 500.0]
    assert leaderboard.split(table)[1].empty


def test_a_smaller_dense_network_has_fewer_macs_than_the_dense_one(written) -> None:
    table = leaderboard.load(written / "leaderboard.csv")
    smaller = table["setting"] == "ssc speed_up=3"
    table.loc[smaller, ["method", "macs", "speed_up"]] = ["dense", 4e6, 1.0]  # it is recorded against itself
    lines = [line.split(" | ") for line in leaderboard.page(table, "", "").splitlines()]
    rows = {line[1]: line[8] for line in lines if len(line) > 8}
    assert rows["dense"] == "1.00x" and rows["ssc speed_up=4"] == "4.00x" and rows["ssc speed_up=3"] == "10.20x"
    assert "| 4.00x |" in leaderboard.page(table[~smaller & (table["method"] != "dense")], "", "")


def test_a_setting_of_one_seed_has_an_interval_and_no_deviation(written) -> None:
    table = leaderboard.load(written / "leaderboard.csv")
    once = table[(table["setting"] != "ssc speed_up=3") | (table["seed"] == 1)]
    # t(0.975, 4) 0.1 = 0.28
    assert "| 3 | ssc speed_up=3 | 1 | 80.10 | 79.82 to 80.38 |  | c |" in leaderboard.page(once, "", "")
    assert "nan" not in leaderboard.page(once.assign(macs=math.nan, speed_up=math.nan), "", "")
    alone = once.assign(compression_images=(once["setting"] != "ssc speed_up=3") * 1.0)
    text = leaderboard.page(alone, "", "")
    assert "| 2 | ssc speed_up=4" in text
    assert "Not ranked yet, since no setting has two seeds: ssc speed_up=3." in text


def test_one_seed_ranks_nothing(written) -> None:
    table = leaderboard.load(written / "leaderboard.csv")
    with pytest.raises(UserError, match="no setting has two seeds: nothing says how much they vary"):
        leaderboard.page(table[table["seed"] == 0], "", "")


@pytest.mark.skipif(not DATA.exists(), reason="docs/ has no leaderboard yet")
def test_the_committed_page_follows_from_the_committed_data(tmp_path) -> None:
    table = leaderboard.load(DATA)
    assert (ROOT / "docs" / "leaderboard.md").read_text() == leaderboard.page(table, "leaderboard.png", DATA.name)
    seen, _ = leaderboard.split(table)
    leaderboard_picture.save(seen, leaderboard.ranking(seen), tmp_path / "picture.png")
