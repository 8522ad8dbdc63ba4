"""Plugins: what an installed package adds is found without importing it, and its mistakes are one line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from paredown.conformance.contract import Contract
from paredown.core import blueprint, plugins
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.keys import kind_versions
from paredown.core.kinds import KINDS
from paredown.core.network import Network
from paredown.core.words import search_path, sweep_files
from paredown.experiment.prepare import prepare

METHOD = """
from dataclasses import dataclass
from paredown.methods.dense import Dense

@dataclass(frozen=True)
class Mine(Dense):
    pass
"""
LAYER = """
from torch import nn

def build(dense, size):
    return nn.Linear(dense.in_features, size)
"""
POINTS = """[paredown.plugins]
acme = acme.inner

[paredown.kinds]
thinner@3 = acme.layers
"""
WORDS = ["method=mine", "model=resnet20", "dataset=digits"]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package with a method, a layer kind, a configuration and a sweep."""
    files = {
        "acme/__init__.py": "from pathlib import Path\nPath(__file__).with_name('IMPORTED').touch()\n",
        "acme/inner/__init__.py": METHOD,
        "acme/layers.py": LAYER,
        "acme/inner/conf/method/mine.yaml": "# Mine\n_target_: acme.inner.Mine\n",
        "acme/sweeps/theirs.yaml": "overrides: [method=mine]\n",
        "acme-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n",
        "acme-1.0.dist-info/entry_points.txt": POINTS,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield tmp_path
    monkeypatch.undo()
    forget()
    for name in [name for name in sys.modules if name.split(".")[0] == "acme"]:
        del sys.modules[name]


def forget() -> None:
    for found in (plugins.plugins, plugins.layer_kinds, plugins.plugin_folders):
        found.cache_clear()


def test_configurations_are_found_without_an_import(package: Path) -> None:
    assert search_path([]) == [package / "acme" / "inner" / "conf"]
    assert compose(WORDS)["method"] == {"_target_": "acme.inner.Mine"}
    assert sweep_files([])["theirs"] == package / "acme" / "sweeps" / "theirs.yaml"
    assert not (package / "acme" / "IMPORTED").exists()


def test_the_method_of_a_plugin_is_planned_without_trust(package: Path, tmp_path: Path) -> None:
    experiment = prepare(compose([*WORDS, f"output={tmp_path / 'out'}"]))
    assert type(experiment.method).__name__ == "Mine" and [step.stage.name for step in experiment.steps] == ["train"]


def test_a_layer_kind_of_a_plugin_is_built_and_versioned(package: Path) -> None:
    assert "thinner" in KINDS and "ssc" in KINDS and KINDS["thinner"].version == 3 and "thinner" in list(KINDS)
    assert kind_versions(["thinner", "ssc"]) == {"thinner": 3}
    network = Network(nn.Sequential(nn.Linear(4, 8)), {}, (1, 2, 2))
    blueprint.rewrite(network, "0", "thinner", size=3)
    assert network.module[0].out_features == 3
    with pytest.raises(UserError, match="no layer kind 'thiner': did you mean thinner"):
        blueprint.rewrite(network, "0", "thiner")


@pytest.mark.parametrize("text", ["import no_such_module", "1 / 0", "raise SystemExit(3)", "def broken(:"])
def test_a_plugin_that_fails_to_import_is_one_line(text: str, package: Path, tmp_path: Path) -> None:
    (package / "acme" / "inner" / "__init__.py").write_text(text)
    said = r"method\._target_=acme\.inner\.Mine: .*(acme\.inner failed|no_such_module)"
    with pytest.raises(UserError, match=said):
        prepare(compose([*WORDS, f"output={tmp_path / 'out'}"]))
    with pytest.raises(UserError, match=said), Contract.of(WORDS[:1]):
        pass
    assert compose(["method=ssc"])  # what does not need it goes on


def test_a_plugin_that_is_not_there_is_a_warning(package: Path, caplog: pytest.LogCaptureFixture) -> None:
    (package / "acme-1.0.dist-info" / "entry_points.txt").write_text("[paredown.plugins]\ngone = no_such_package.x\n")
    forget()
    with caplog.at_level(logging.WARNING, "paredown"):
        assert compose(["method=ssc"])
    assert "no module no_such_package" in caplog.text
