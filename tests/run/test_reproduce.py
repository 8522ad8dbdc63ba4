"""Theirs beside ours: what is compared, when it says nothing, and the verdicts against worked intervals."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from paredown.core.errors import UserError
from paredown.published import load
from paredown.published.settings import SETTINGS, overrides, rows
from paredown.published.table import NUMBERS
from paredown.run.reproduce import (
    NOT_COMPARABLE,
    NOT_COMPARED,
    Comparison,
    commands,
    compare,
    only_row,
    reasons,
    reproduce,
    runnable,
    show,
)
from paredown.run.walk import Result

WHATS = ("final/", "best/", "gain/", "gain/best_", "gain/base_", "gain/base_best_", "dense/best_", "base/best_")

RUNNABLE = [dict(row) for _, row in load().iterrows() if row["method"] in SETTINGS and row["table"] != "S1"][::5]
EVERY_METRIC = ["cost/sparsity", "cost/compression", "cost/speed_up_conv", "cost/speed_up_thop", "cost/speed_up"]
EVERY_METRIC += [f"{what}{top}" for what in WHATS for top in ("top1", "top5")]
EVERY_METRIC += ["cost/speed_up_sfp", "cost/speed_up_cnn_fcf"]
NOT_OURS = {  # of baselines whose gains are on another's network
    "dense": {"compression", "dense_top1", "gain_top1", "sparsity", "speed_up"},
    "trp": {"gain_top5"},
}
ROW = rows("svd_training/table3/11")[0]  # gain -0.10 over 90.99, speed-up 3.87


def metrics(gain: float, speed_up: float = 3.87) -> dict[str, float]:
    return {"gain/base_best_top1": gain, "base/best_top1": 90.99, "cost/speed_up_conv": speed_up, "final/top1": 1.0}


def verdicts(*gains: float, why: tuple[str, ...] = ()) -> dict[str, str]:
    found = compare(ROW, (), [metrics(gain) for gain in gains], why)
    return {item.quantity: item.verdict for item in found.comparisons}


def test_verdicts() -> None:
    # t(0.975, 2) = 4.3027: three values 0.1 apart have a half width of 0.2484
    assert verdicts(-0.2, -0.1, 0.0)["gain_top1"] == "within"
    assert verdicts(0.1, 0.2, 0.3)["gain_top1"] == "above"
    assert verdicts(-0.6, -0.5, -0.4)["gain_top1"] == "below"
    # a printed -0.10 is anything from -0.105 to -0.095: 0.1534 - 0.2484 = -0.095
    assert verdicts(0.05, 0.15, 0.25)["gain_top1"] == "within" and verdicts(0.054, 0.154, 0.254)["gain_top1"] == "above"
    assert verdicts(-0.1)["gain_top1"] == "one seed: no interval"
    found = verdicts(-0.1, -0.1, why=("debug",))
    assert found.pop("top1") == NOT_COMPARED and set(found.values()) == {NOT_COMPARABLE}


def test_the_numbers_compared() -> None:
    (top, gain, base, speed_up) = compare(ROW, (), [metrics(0.0, 3.95), metrics(0.2, 3.95)], ()).comparisons
    assert (gain.quantity, gain.theirs, gain.ours.mean) == ("gain_top1", -0.1, 0.1)
    assert gain.deviation == pytest.approx(0.2) and gain.ours.seeds == 2
    assert (base.quantity, base.verdict) == ("dense_top1", "within")
    assert (speed_up.theirs, speed_up.ours.mean, speed_up.verdict) == (3.87, 3.95, "above")
    assert (top.quantity, top.verdict, top.note) == ("top1", "not compared", "these runs have no best/top1")


def test_a_counted_cost_is_equal_within_a_tolerance_that_is_told() -> None:
    """All seeds cost the same: their interval has no width, and a printed 3.87 is no count."""

    def speed_up(*ours: float) -> Comparison:
        return compare(ROW, (), [metrics(0.0, value) for value in ours], ()).comparisons[-1]

    assert speed_up(3.8662, 3.8662, 3.8662).verdict == speed_up(3.9086, 3.9086).verdict == "within"
    assert speed_up(3.9088, 3.9088).verdict == "above" and speed_up(3.8, 3.8).verdict == "below"  # 1 % of 3.87
    assert speed_up(3.9).verdict == speed_up(4.0).verdict == "one seed: no interval"  # other seeds have other ranks
    assert speed_up(3.7, 3.9, 4.3).verdict == "within"  # ranks that differ between seeds have an interval
    assert speed_up(3.9).note == "tolerance 0.039"


def test_equal_seeds_are_held_against_a_rounded_number() -> None:
    """A decomposition without training gives every seed the same accuracy."""
    assert verdicts(-0.1031, -0.1031)["gain_top1"] == "within" and verdicts(-0.106, -0.106)["gain_top1"] == "below"


def test_ssc_has_printed_spreads() -> None:
    row = rows("ssc/table1/126")[0]
    run = {"final/top1": 91.66, "best/top1": 91.0, "cost/sparsity": 0.9503, "gain/top1": 0.0}
    found = {item.quantity: item for item in compare(row, (), [run, run], ()).comparisons}
    assert found["top1"].theirs == 91.66 and found["top1"].spread == 0.13 and found["top1"].verdict == "below"
    assert (found["sparsity"].verdict, found["sparsity"].note) == ("within", "asked for, tolerance 0.005")
    why = "these runs have no gain/best_top1: run method=dense with the same settings first"
    assert (found["gain_top1"].verdict, found["gain_top1"].note) == ("not compared", why)
    dense = {"gain/best_top1": -3.8, "dense/best_top1": 94.8}
    found = {item.quantity: item for item in compare(row, (), [run | dense] * 2, ()).comparisons}
    assert found["gain_top1"].deviation == pytest.approx(-3.8 + 3.14) and found["dense_top1"].verdict == "within"


def test_parameters_are_held_against_parameters() -> None:
    """SSC's Table 5 prints parameters: 52.4 % of MobileNetV2's, whatever share of the weights that is."""
    row = rows("ssc/table5/5")[0]
    run = {"cost/sparsity": 0.476, "cost/compression": 100 / 51.0, "best/top1": 92.9}
    found = {item.quantity: item for item in compare(row, (), [run, run], ()).comparisons}
    assert "sparsity" not in found
    assert (found["params_change"].theirs, found["params_change"].verdict) == (-47.6, "below")
    assert found["params_change"].ours.mean == pytest.approx(-49) and found["compression"].verdict == "above"


def test_a_decomposed_network_is_held_against_the_one_it_was_given() -> None:
    row = next(row for row in rows("svd_nas/tablemain") if row["method"] == "f_group")
    run = {"gain/base_top1": -69.0, "gain/base_top5": -87.0, "cost/speed_up_thop": 1.7325, "gain/top1": 0.0}
    found = {item.quantity: item for item in compare(row, (), [run], ()).comparisons}
    assert found["gain_top1"].deviation == pytest.approx(0.34) and found["gain_top5"].theirs == -87.63
    assert found["speed_up"].deviation == pytest.approx(0, abs=2e-3) and found["speed_up"].verdict == "within"
    assert found["flops_change"].theirs == -42.31 and found["flops_change"].ours.mean == pytest.approx(-42.28, abs=0.01)
    assert found["params_change"].note == "these runs have no cost/compression"


@pytest.mark.parametrize("row", RUNNABLE, ids=lambda row: row["id"])
def test_every_printed_number_is_compared_or_the_reason_is_given(row) -> None:
    printed = {name for name in NUMBERS if not math.isnan(row[name]) and name != "top1_std"}
    for run in ({}, dict.fromkeys(EVERY_METRIC, 1.0)):
        found = compare(row, (), [run, run], ()).comparisons
        assert {item.quantity for item in found} == printed and len(found) == len(printed)
        for item in found:
            assert math.isfinite(item.ours.mean) or (item.verdict == NOT_COMPARED and item.note)
    assert {item.quantity for item in found if not item.ours.seeds} <= NOT_OURS.get(row["method"], set())


def test_commands_are_the_rows_settings_for_each_seed_and_the_user_wins() -> None:
    first, second = commands(ROW, ["seed=7", "method.energy=0.1", "output=x", f"reproduce={ROW['id']}"], 2)
    assert first[-1] == "seed=0" and second[-1] == "seed=1" and first[:-1] == second[:-1]
    assert "method.energy=0.1" in first and not any("2e-05" in word for word in first)
    assert {"method=svd_training", "method.form=spatial", "recipe=svd_training_code", "output=x"} < set(first)


def test_an_added_or_deleted_key_replaces_the_rows_own() -> None:
    for typed in ("~recipe", "+recipe=cifar10", "recipe=cifar10"):
        (words,) = commands(ROW, [typed], 1)
        assert [word for word in words if "recipe" in word] == ["recipe.precision=32", typed]


@pytest.mark.parametrize(
    "name", ["svd_training/table3/19", "svd_training/table7/3", "svd_nas/tableS3/1", "ssc/table1/125"]
)
def test_a_group_that_the_row_has_may_be_typed(name: str) -> None:
    """`model=resnet32` beside a row of that network leaves the row's width; another network's settings go."""
    row = only_row(name)
    whole = commands(row, [], 1)[0]
    for word in overrides(row):
        assert set(commands(row, [word], 1)[0]) == set(whole)
    (other,) = commands(row, ["model=vgg19"], 1)
    assert not [word for word in other if word.startswith("model.")] and "recipe.precision=32" in other


def test_the_number_of_ranks_is_no_harmless_setting() -> None:
    assert reasons(ROW, ["trainer.threads=2", "trainer.accelerator=cpu"]) == []
    assert reasons(ROW, ["trainer=ddp", "trainer.devices=2"])


def test_what_changes_the_question_is_named() -> None:
    assert reasons(ROW, ["output=x", "trainer.threads=1", "dataset.root=/d", "seeds=2", "tracking=off"]) == []
    assert reasons(ROW, ["debug=fast"]) == ["its settings were changed: debug=fast"]
    assert reasons(ROW, ["dataset=digits", "output=x"]) == ["its settings were changed: dataset=digits"]
    assert reasons(ROW, ["method.form=spatial", "method.energy=1e-3"]) == [
        "its settings were changed: method.energy=1e-3"
    ]


def test_only_the_number_that_is_not_the_same_is_left_out() -> None:
    other = next(row for row in rows("svd_training/table6") if row["gain_reference"] == "svd_training_base")
    run = {"gain/base_top1": 0.0, "gain/top1": 0.0, "cost/speed_up_conv": other["speed_up"]}
    gain, speed_up = compare(other, (), [run, run], reasons(other, [])).comparisons
    assert gain.verdict == NOT_COMPARED and "another network" in gain.note and math.isnan(gain.deviation)
    assert (speed_up.verdict, speed_up.note) == ("within", f"asked for, tolerance {other['speed_up'] / 100:.2g}")


def test_it_runs_each_seed_and_files_the_answer(tmp_path: Path) -> None:
    asked = []

    def run(words: list[str]) -> Result:
        asked.append(words)
        return Result(metrics(float(len(asked))), tmp_path, tmp_path, None)

    found = reproduce("svd_training/table3/11", ["debug=fast"], 3, run)
    assert len(asked) == 3 and all("debug=fast" in words for words in asked)
    filed = json.loads(found.save(tmp_path).read_text())
    assert filed["row"]["id"] == "svd_training/table3/11" and filed["reasons"] == list(found.reasons)
    top, gain = filed["comparisons"][:2]
    assert gain["ours"]["mean"] == 2 and gain["deviation"] == pytest.approx(2.1)
    assert top["ours"]["mean"] is None and top["note"] == "these runs have no best/top1"
    assert filed["row"]["sparsity"] is None  # not a number is no JSON


@pytest.mark.parametrize(
    ("name", "seeds", "says"),
    [
        ("svd_training/table3", 3, "is a table of 76 rows: src/sweep.py runs it, or give svd_training/table3/1"),
        ("svd_training/table3/1", 0, "seeds=0 is not at least 1"),
        ("beta_lasso/table3/1", 1, "it holds counts, not results"),
    ],
)
def test_mistakes_are_one_line(name: str, seeds: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        reproduce(name, [], seeds, lambda words: pytest.fail("nothing is run"))


def test_only_one_row() -> None:
    assert only_row("svd_training/table3/1")["row"] == 1


def test_every_number_is_shown_beside_ours(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    found = compare(ROW, (), [metrics(-0.2, 3.9), metrics(0.0, 3.9)], ["its settings were changed: debug=fast"])
    show([found], tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "svd_training/table3/11: SVD training, resnet20, cifar10, 2 seeds"
    (gain,) = [line for line in lines if "gain_top1" in line]
    (speed_up,) = [line for line in lines if "speed_up" in line]
    (top,) = [line for line in lines if "│ top1" in line]
    assert "not compared (these runs have no best/top1)" in top and "nan" not in top
    assert [cell.strip() for cell in gain.strip("│").split("│")] == [
        *("", "gain_top1", "-0.1", "-0.1 [-1.371, 1.171]", "+0", NOT_COMPARABLE)  # t(0.975, 1) = 12.71, times 0.1
    ]
    assert "3.87" in speed_up and "3.9" in speed_up and "+0.03" in speed_up
    assert "not a reproduction: its settings were changed: debug=fast" in lines and f"written to {tmp_path}" in lines


def test_the_rows_of_a_table_that_can_be_run_of_one_model() -> None:
    found = runnable("svd_training/table6", "resnet20")
    assert found and all("dataset=cifar10" in words for words in found.values())
    printed = {row["id"]: row for row in rows("svd_training/table6")}
    assert {printed[name]["method"] for name in found} == {*("zhang2016", "jaderberg2014", "trp", "sfp", "cnn_fcf")} & {
        row["method"] for row in printed.values() if row["model"] == "resnet20"
    }
    assert set(runnable("svd_training/table6", None)) > set(found)
    with pytest.raises(UserError, match=r"has no row of model 'resnet21': did you mean .*resnet20"):
        runnable("svd_training/table6", "resnet21")
    with pytest.raises(UserError, match=r"beta_lasso/table3/1 cannot be run: it holds counts"):
        runnable("beta_lasso/table3", None)
