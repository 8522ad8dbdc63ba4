"""Which runs are one setting, and how settings are labelled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from paredown.core.config import CONF
from paredown.core.keys import setting
from paredown.report.grouping import Described, controlled, described, identity, label, labels, varied

PARAMETERS = Path(__file__).parents[1] / "golden" / "parameters.json"
GROUPS = ("method", "recipe", "model", "dataset")


def run(tags: dict[str, str] | None = None, **params: str) -> Described:
    return described({"method": "ssc"} | (tags or {}), params)


def test_what_an_older_version_did_not_have_is_no_difference() -> None:
    runs = [run(seed="0", deploy="plain", control="null"), run(seed="1")]
    assert identity(runs[0]) == identity(runs[1])
    assert {label(one, varied(runs)) for one in runs} == {"ssc"}


def parameters() -> dict[str, dict[str, str]]:
    """The parameters of each file of conf/ as runs record them, with their defaults."""
    files = {path: path.parent.name for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))}
    files[CONF / "config.yaml"] = ""
    return {str(path.relative_to(CONF)): flat(yaml.safe_load(path.read_text()), group) for path, group in files.items()}


def flat(values: dict[str, Any], group: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in values.items():
        whole = f"{group}.{name}" if group else name
        if isinstance(value, dict):
            found |= flat(value, whole)
        elif name not in ("defaults", "hydra"):
            found[whole] = value if isinstance(value, str) else json.dumps(value)
    return found


def known() -> dict[str, list[str]]:
    found: dict[str, list[str]] = json.loads(PARAMETERS.read_text())
    return found


def test_a_new_parameter_at_its_default_makes_no_other_setting_of_older_runs() -> None:
    """Where this fails: core.keys.UNRECORDED says what runs that did not record the parameter stood at."""
    before = known()
    new = {
        f: {n: v for n, v in found.items() if n not in before[f]} for f, found in parameters().items() if f in before
    }
    assert not {file: left for file, found in new.items() if (left := set(setting(found)))}


def test_every_file_of_the_configuration_is_watched() -> None:
    """Where this fails: python tests/golden/write.py adds the new files."""
    assert set(parameters()) == set(known())


def test_what_was_chosen_is_one() -> None:
    runs = [run(deploy="auto"), run(deploy="plain"), run()]
    assert len({identity(one) for one in runs}) == 2
    assert label(runs[0], varied(runs)) == "ssc deploy=auto"


def test_packed_training_is_the_same_setting_and_random_designs_are_not() -> None:
    assert identity(run(**{"method.packed": "auto"})) == identity(run())
    searched, drawn = run(**{"method.search.by": "gradient"}), run(**{"method.search.by": "random"})
    assert identity(searched) == identity(run()) != identity(drawn)


@pytest.mark.parametrize(
    ("name", "is_same"),
    [
        *((name, True) for name in ("seed", "output", "store", "trainer.threads", "tracking.uri", "dataset.root")),
        *((name, True) for name in ("dataset.cache", "names.model", "latency.seconds")),
        *((name, False) for name in ("dataset.fraction", "recipe.epochs", "method.p", "latency.batch", "speed_up")),
    ],
)
def test_where_and_how_it_ran_is_no_difference_and_what_it_ran_is(name: str, is_same: bool) -> None:
    assert (identity(run(**{name: "1"})) == identity(run(**{name: "2"}))) is is_same


@pytest.mark.parametrize(
    ("place", "what"), [("model.source", "model.digest"), ("model.weights", "model.weights_digest")]
)
def test_what_is_in_a_file_makes_the_setting_and_not_where_the_file_is(place: str, what: str) -> None:
    first = run(**{place: "/a/net.py:Net", what: "1"})
    assert identity(first) == identity(run(**{place: "/b/net.py:Net", what: "1"}))
    assert identity(first) != identity(run(**{place: "/a/net.py:Net", what: "2"}))
    assert identity(run(**{place: "/a/net.py:A"})) != identity(run(**{place: "/a/net.py:B"}))  # of an older version


def test_a_control_belongs_to_the_setting_of_the_same_parameters() -> None:
    assert controlled(run(control="random", speed_up="4")) == identity(run(speed_up="4"))
    assert controlled(run(control="random", speed_up="4")) != identity(run(speed_up="8"))


def test_a_label_has_model_target_varying_hyperparameters_and_control() -> None:
    tags = {"model": "resnet20", "target": "speed_up=4", "control": "random"}
    first = run(tags, **{"model.width": "1", "method.p": "2", "method.g": "1", "speed_up": "4", "control": "random"})
    second = run({"model": "resnet20", "target": "none"}, **{"model.width": "2", "method.p": "3", "method.g": "1"})
    names = varied([first, second])
    assert names == {"ssc": ["control", "method.p", "model.width", "speed_up"]}
    assert label(first, names) == "ssc resnet20 speed_up=4 p=2 width=1 control=random"
    assert label(second, names) == "ssc resnet20 p=3 width=2"


@pytest.mark.parametrize("quantity", ["sparsity", "speed_up", "latency_speed_up"])
def test_a_target_stands_once_in_a_label(quantity: str) -> None:
    runs = [run({"target": f"{quantity}={value}"}, **{quantity: value}) for value in ("0.5", "0.75")]
    assert label(runs[0], varied(runs)) == f"ssc {quantity}=0.5"


def test_equal_labels_are_numbered() -> None:
    assert labels({"a": "ssc", "b": "dense", "c": "ssc"}) == {"a": "ssc #1", "b": "dense", "c": "ssc #2"}
