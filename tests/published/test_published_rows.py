"""What `reproduce=` runs for every published row: its overrides and its composed configuration, pinned by a golden
file.

After an intended change (a new method, another setting) write tests/golden/published_rows.json anew and read its diff:
`PYTHONPATH=src python tests/published/test_published_rows.py`. Whether it is the papers' protocol is asked in
test_protocols.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from paredown.core.config import TYPED, compose_all
from paredown.core.errors import UserError
from paredown.published import load
from paredown.published.settings import overrides

GOLDEN = Path(__file__).parents[1] / "golden" / "published_rows.json"
# row's method: the name of its yaml where that is another
METHODS = {"zhang2016": "zhang", "jaderberg2014": "jaderberg"}
METHODS |= {"l1_filter_pruning": "l1_filters", "network_slimming": "slimming"}
CUT = ("nisp", "cnn_fcf")  # at the printed speed-up, but for CNN-FCF's first points, whose rate is known
METHODS |= {"lt_original_init": "lottery", "lt_reset_epoch5": "lottery"}
METHODS |= {"ip_snip": "snip", "ip_grasp": "grasp", "ip_synflow": "synflow"}
AT_SPEED_UP = ("trp", "zhang2016", "jaderberg2014", "alds", "lr_s2")
GROUPS = ("dataset", "model", "recipe", "method")
# top-level settings that say where, how often and how closely something runs, not what
ELSEWHERE = {"output", "store", "tracking", "trainer", "latency", "deploy", "seed", "seeds", "reproduce", "names"}
ELSEWHERE |= {"debug", "experiment", "trust", "progress", TYPED}
PLACES = {("dataset", "root"), ("dataset", "cache"), ("dataset", "download")}


def current() -> dict[str, dict[str, str]]:
    """Return the overrides of every row that can be run, and the reason for every other row, by the row's id."""
    found: dict[str, dict[str, str]] = {"overrides": {}, "cannot_run": {}}
    for _, row in load().iterrows():
        try:
            found["overrides"][row["id"]] = " ".join(overrides(dict(row)))
        except UserError as error:
            found["cannot_run"][row["id"]] = str(error).removeprefix(f"{row['id']} cannot be run: ")
    return found


def table(commands: dict[str, str], configs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the composed configurations of `commands` as a table: by row the number of its settings in each group and
    the rest of its configuration; and the settings, by group and number, each once."""
    settings: dict[str, dict[str, str]] = {group: {} for group in GROUPS}
    rows = {}
    for name, config in zip(commands, configs, strict=True):
        cells = {}
        for group in GROUPS:
            values = {key: value for key, value in config[group].items() if (group, key) not in PLACES}
            text = json.dumps(values)
            cells[group] = settings[group].setdefault(text, f"{config['names'][group]} {len(settings[group]) + 1}")
        rest = {key: value for key, value in config.items() if key not in GROUPS and key not in ELSEWHERE}
        rows[name] = cells | {key: value for key, value in rest.items() if value is not None}
    by_name = {group: {name: json.loads(text) for text, name in found.items()} for group, found in settings.items()}
    return {"settings": by_name, "rows": rows}


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, str]]:
    return current()


@pytest.fixture(scope="module")
def configs(composed) -> list[dict[str, Any]]:
    return [config for _, config in composed]


def test_every_row_is_run_as_in_the_golden_file(found) -> None:
    golden = json.loads(GOLDEN.read_text())
    for part in ("overrides", "cannot_run"):
        assert found[part] == golden[part]
    assert len(found["overrides"]) + len(found["cannot_run"]) == len(load()) == 507


def test_every_row_is_composed_as_in_the_golden_file(found, configs) -> None:
    golden, ours = json.loads(GOLDEN.read_text()), json.loads(json.dumps(table(found["overrides"], configs)))
    assert ours["settings"] == golden["settings"]
    assert ours["rows"] == golden["rows"]


def test_reasons_are_one_line_and_name_what_is_missing(found) -> None:
    methods = {row["id"]: row["method"] for _, row in load().iterrows()}
    for name, reason in found["cannot_run"].items():
        assert "\n" not in reason
        expected = {"": "counts, not results", "svd_nas": "search times"}.get(methods[name], repr(methods[name]))
        assert expected in reason, name


def test_every_row_names_its_dataset_and_model(found) -> None:
    rows = {row["id"]: row for _, row in load().iterrows()}
    for name, text in found["overrides"].items():
        words, row = set(text.split(" ")), rows[name]
        assert f"dataset={row['dataset']}" in words, name
        names_model = words & {f"model={row['model']}", f"model={row['model']}_bottleneck"}
        in_experiment = words & {"experiment=ssc_mobilenet_cifar10", "experiment=ssc_shufflenet_cifar10"}
        assert len(names_model | in_experiment) == 1, name


def test_every_row_composes_to_its_method_and_target(composed) -> None:
    for row, config in composed:
        assert config["names"]["method"] == METHODS.get(row["method"], row["method"]), row["id"]
        # thop also counts what no factorisation makes smaller (batch norm), so in our count the same network gains more
        apart = 0.01 if row["counting"] == "thop" else 1e-3
        asked = row["method"] in (*AT_SPEED_UP, *CUT) and config["method"].get("keep") is None
        speed_up = pytest.approx(row["speed_up"], rel=apart) if asked else None
        assert config["speed_up"] == speed_up, row["id"]
        # Table 5 prints the pattern, not a sparsity
        printed = row["paper"] == "ssc" and row["table"] != "5" and row["method"] != "dense"
        assert config["sparsity"] == (row["sparsity"] if printed else None), row["id"]


def write() -> None:
    """Write the golden file anew, a line for each row and for each group of settings."""
    found = current()
    configs = list(compose_all([words.split(" ") for words in found["overrides"].values()]))
    composed = table(found["overrides"], configs)
    parts = {**found, "rows": composed["rows"]}
    texts = [f' "{name}": {_lines(values, 1)}' for name, values in parts.items()]
    groups = [f'  "{name}": {_lines(values, 2)}' for name, values in composed["settings"].items()]
    texts.append(' "settings": {\n' + ",\n".join(groups) + "\n }")
    GOLDEN.write_text("{\n" + ",\n".join(texts) + "\n}\n")


def _lines(values: dict[str, Any], depth: int) -> str:
    lines = [f"{' ' * (depth + 1)}{json.dumps(name)}: {json.dumps(value)}" for name, value in values.items()]
    return "{\n" + ",\n".join(lines) + "\n" + " " * depth + "}"


if __name__ == "__main__":
    write()
