"""Every published row either is a command that composes to what it prints, or says what is missing."""

from __future__ import annotations

import pytest

from paredown.config import CONF, compose
from paredown.errors import UserError
from paredown.published import load
from paredown.published.settings import SETTINGS, overrides, rows

OURS = [dict(row) for _, row in load().iterrows() if row["method"] in SETTINGS and row["table"] != "S1"]
KNOWN = {path.stem for path in (CONF / "method").glob("*.yaml")}


def of(method: str) -> list[dict]:
    return [row for row in OURS if row["method"] == method]


@pytest.mark.parametrize("row", of("svd_training")[::9], ids=lambda row: row["id"])
def test_the_knobs_of_svd_training_are_those_printed(row) -> None:
    config = compose(overrides(row))
    method, knobs = config["method"], row["knobs"]
    printed = (knobs["decomposition"], knobs["regularizer"], knobs["decay"], knobs["energy"])
    assert (method["form"], method["regularizer"], method["decay"], method["energy"]) == printed
    assert config["names"]["dataset"] == row["dataset"] and config["names"]["model"].startswith(row["model"])
    if row["dataset"] == "imagenet":
        assert method["finetune"] == {"epochs": 60, "learning_rate": 0.01, "milestones": [0.5]}
        assert method["orthogonality"] == (10 if (row["model"], method["form"]) == ("resnet50", "channel") else 5)
        assert (config["recipe"]["epochs"], config["recipe"]["batch_size"]) == (90, 256)
    else:
        assert config["names"]["recipe"] == "svd_training_code"
        deep = row["model"] in ("resnet56", "resnet110")
        assert config["model"]["block"] == ("bottleneck" if deep else "basic")


@pytest.mark.parametrize("row", of("ssc")[::5], ids=lambda row: row["id"])
def test_sparsities_of_ssc_are_those_printed(row) -> None:
    config = compose(overrides(row))
    assert config["names"]["dataset"] == row["dataset"] and config["names"]["method"] == "ssc"
    if row["table"] == "5":
        assert config["method"]["pointwise_only"] and config["method"]["p"] == 2
    else:
        assert config["sparsity"] == row["sparsity"]
        assert config["model"].get("width", 1) == row["network"].get("width", 1)


@pytest.mark.parametrize("row", [*of("alds"), *of("lr_s2"), *of("f_group")], ids=lambda row: row["id"])
def test_svd_nass_baselines_start_from_torchvisions_weights(row) -> None:
    config = compose(overrides(row))
    assert (config["names"]["method"], config["names"]["dataset"]) == (row["method"], "imagenet")
    assert config["model"]["weights"] == "imagenet1k_v1" and config["method"]["finetune"]["epochs"] is None
    assert config["speed_up"] == (None if row["method"] == "f_group" else pytest.approx(row["speed_up"], rel=1e-3))


@pytest.mark.parametrize("row", of("svd_nas")[::7], ids=lambda row: row["id"])
def test_the_knobs_of_svd_nas_are_those_printed(row) -> None:
    config = compose(overrides(row))
    method, knobs = config["method"], row["knobs"]
    assert config["names"]["model"] == row["model"] and config["model"]["weights"] == "imagenet1k_v1"
    assert method["search"]["split"] == "test"
    if knobs.get("beta"):
        assert method["beta"] == float(knobs["beta"])
        assert method["gamma"] == [float(end) for end in knobs["gamma_range"].split("-")]
        assert method["branches"] == int(knobs["setting"][1])
        images = {"SD1k": 1000, "SD25k": 25_000}.get(knobs["setting"][3:])
        assert method["distil"]["images"] == images
        assert method["distil"]["setup"] == ("synthetic" if images else "none")


def test_the_main_texts_rows_of_svd_nas_are_rows_of_table_s3_and_search_times_no_results() -> None:
    words = overrides(rows("svd_nas/tablemain/1")[0])
    assert {"method.beta=32", "method.gamma=[0.40,0.80]", "method.branches=2"} < set(words)
    small = next(row for row in of("svd_nas") if row["knobs"].get("search_val_images") == "500")
    assert {"method.search.images=500", "method.search.passes=100"} < set(overrides(small))
    with pytest.raises(UserError, match=r"svd_nas/tableS1/1 cannot be run: it holds search times"):
        overrides(rows("svd_nas/tableS1")[0])


@pytest.mark.parametrize("method", sorted(set(SETTINGS)))
def test_every_row_of_a_method_that_is_here_composes(method: str) -> None:
    commands = {tuple(overrides(row)) for row in of(method)}
    assert commands
    for words in sorted(commands)[::12]:
        if next(word for word in words if "experiment=" in word or "method=" in word).partition("=")[2] in KNOWN:
            compose(list(words))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("svd_training/table3/99", r"its rows are 1 to 76"),
        ("svd_training/table33", r"did you mean svd_training/table3"),
        ("ssc/table1/5", None),
        ("beta_lasso/table3/1", None),
    ],
)
def test_what_cannot_be_run_says_why(name: str, says: str | None) -> None:
    if says:
        with pytest.raises(UserError, match=says):
            rows(name)
        return
    with pytest.raises(UserError, match=rf"{name} cannot be run: (there is no method|it holds counts)"):
        overrides(rows(name)[0])


def test_a_table_has_all_its_rows_in_order() -> None:
    found = rows("svd_training/table3")
    assert [row["id"] for row in found] == [f"svd_training/table3/{number}" for number in range(1, 77)]
