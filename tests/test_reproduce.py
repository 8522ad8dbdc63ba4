"""Theirs beside ours: what is compared, when it says nothing, and the verdicts against worked intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paredown.errors import UserError
from paredown.execute import Result
from paredown.published.settings import rows
from paredown.reproduce import NOT_COMPARABLE, commands, compare, only_row, reasons, reproduce

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
    assert verdicts(0.04, 0.14, 0.24)["gain_top1"] == "within" and verdicts(0.05, 0.15, 0.25)["gain_top1"] == "above"
    assert verdicts(-0.1)["gain_top1"] == "one seed: no interval"
    assert set(verdicts(-0.1, -0.1, why=("debug",)).values()) == {NOT_COMPARABLE}


def test_the_numbers_compared() -> None:
    (gain, base, speed_up) = compare(ROW, (), [metrics(0.0, 3.9), metrics(0.2, 3.9)], ()).comparisons
    assert (gain.quantity, gain.theirs, gain.ours.mean) == ("gain_top1", -0.1, 0.1)
    assert gain.deviation == pytest.approx(0.2) and gain.ours.seeds == 2
    assert (base.quantity, base.verdict) == ("dense_top1", "within")
    assert (speed_up.theirs, speed_up.ours.mean, speed_up.verdict) == (3.87, 3.9, "above")


def test_ssc_has_printed_spreads() -> None:
    row = rows("ssc/table1/126")[0]
    run = {"final/top1": 91.0, "cost/sparsity": 0.9503, "dense/top1": 94.8, "gain/top1": -3.8}
    found = {item.quantity: item for item in compare(row, (), [run, run], ()).comparisons}
    assert found["top1"].theirs == 91.66 and found["top1"].spread == 0.13 and found["top1"].verdict == "below"
    assert found["gain_top1"].deviation == pytest.approx(-3.8 + 3.14)


def test_a_decomposed_network_is_held_against_the_one_it_was_given() -> None:
    row = next(row for row in rows("svd_nas/tablemain") if row["method"] == "f_group")
    run = {"gain/base_top1": -69.0, "gain/base_top5": -87.0, "cost/speed_up_thop": 1.7325, "gain/top1": 0.0}
    found = {item.quantity: item for item in compare(row, (), [run], ()).comparisons}
    assert found["gain_top1"].deviation == pytest.approx(0.34) and found["gain_top5"].theirs == -87.63
    assert found["speed_up"].deviation == pytest.approx(0, abs=2e-3)


def test_commands_are_the_rows_settings_for_each_seed_and_the_user_wins() -> None:
    first, second = commands(ROW, ["seed=7", "method.energy=0.1", "output=x", f"reproduce={ROW['id']}"], 2)
    assert first[-1] == "seed=0" and second[-1] == "seed=1" and first[:-1] == second[:-1]
    assert "method.energy=0.1" in first and not any("2e-05" in word for word in first)
    assert {"method=svd_training", "method.form=spatial", "recipe=svd_training_code", "output=x"} < set(first)


def test_what_changes_the_question_is_named() -> None:
    assert reasons(ROW, ["output=x", "trainer.threads=1", "dataset.root=/d", "seeds=2", "tracking=off"]) == []
    assert reasons(ROW, ["debug=fast"]) == ["its settings were changed: debug=fast"]
    assert reasons(ROW, ["dataset=digits", "output=x"]) == ["its settings were changed: dataset=digits"]
    other = next(row for row in rows("svd_training/table6") if row["gain_reference"] == "svd_training_base")
    assert "another network's accuracy" in reasons(other, [])[0]


def test_it_runs_each_seed_and_files_the_answer(tmp_path: Path) -> None:
    asked = []

    def run(words: list[str]) -> Result:
        asked.append(words)
        return Result(metrics(float(len(asked))), tmp_path, tmp_path, None)

    found = reproduce("svd_training/table3/11", ["debug=fast"], 3, run)
    assert len(asked) == 3 and all("debug=fast" in words for words in asked)
    filed = json.loads(found.save(tmp_path).read_text())
    assert filed["row"]["id"] == "svd_training/table3/11" and filed["reasons"] == list(found.reasons)
    assert filed["comparisons"][0]["ours"]["mean"] == 2 and filed["comparisons"][0]["deviation"] == pytest.approx(2.1)
    assert filed["row"]["sparsity"] is None  # not a number is no JSON


@pytest.mark.parametrize(
    ("name", "seeds", "says"),
    [
        ("svd_training/table3", 3, "is a table of 76 rows: src/sweep.py runs it, or give svd_training/table3/1"),
        ("svd_training/table3/1", 0, "seeds=0 is not at least 1"),
        ("ssc/table1/5", 1, "there is no method '.*' here yet"),
    ],
)
def test_mistakes_are_one_line(name: str, seeds: int, says: str) -> None:
    with pytest.raises(UserError, match=says):
        reproduce(name, [], seeds, lambda words: pytest.fail("nothing is run"))


def test_only_one_row() -> None:
    assert only_row("svd_training/table3/1")["row"] == 1
