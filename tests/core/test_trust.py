"""What a name in a configuration, a state or a file may have imported and called, and who may say so."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from paredown.core import blueprint, config, plugins, trust
from paredown.core.config import compose, compose_all
from paredown.core.errors import UserError
from paredown.experiment.experiment import Experiment
from paredown.experiment.prepare import open_data, prepare
from paredown.sweep.spec import load

SMALL = ("dataset=digits", "model=resnet20", "model.depth=8", "recipe.precision=32", "trainer.accelerator=cpu")
DIGITS = {"_target_": "paredown.data.datasets.digits.Digits", "name": "digits", "mean": [0.3], "std": [0.4]}
CODE = """
from pathlib import Path
Path(__file__).with_name("IMPORTED").touch()
from paredown.data.datasets.digits import Digits
from paredown.methods.dense import Dense
class Mine(Digits): pass
class Plain(Dense): pass
def called(**arguments): Path(__file__).with_name("CALLED").touch()
"""


@pytest.fixture(autouse=True)
def _no_trust_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(trust, "_TRUSTED", set())
    yield
    plugins.plugins.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an importable package `stranger` that marks its import and its call."""
    place = tmp_path / "site" / "stranger"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text("")
    (place / "code.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(place.parent))
    yield place
    for name in [name for name in sys.modules if name.split(".")[0] == "stranger"]:
        del sys.modules[name]


def experiment(tmp_path: Path, *words: str) -> Experiment:
    return prepare(compose([*SMALL, f"output={tmp_path / 'out'}", *words]))


def in_dataset(tmp_path: Path, target: str) -> object:
    return open_data({**DIGITS, "_target_": target})


def in_transfer(tmp_path: Path, target: str) -> object:
    return experiment(tmp_path, "dataset@transfer.dataset=digits", f"transfer.dataset._target_={target}")


def in_method(tmp_path: Path, target: str) -> object:
    return experiment(tmp_path, f"method._target_={target}")


def in_model(tmp_path: Path, target: str) -> object:
    return experiment(tmp_path, f"model._target_={target}")


def in_state(tmp_path: Path, target: str) -> object:
    return blueprint.build({"_target_": target}, {})


PLACES = (in_dataset, in_transfer, in_method, in_model, in_state)
Place = Callable[[Path, str], object]


@pytest.mark.parametrize("place", PLACES)
def test_a_strangers_code_is_not_even_imported(place: Place, package: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stranger\.code\.called is neither imported nor called.*trust=stranger\.code"):
        place(tmp_path, "stranger.code.called")
    assert not (package / "IMPORTED").exists()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "target",
    [
        "paredown.runtime.cpu_kernel._run",
        "paredown.models.pretrained.load_pretrained",
        "paredown.models.pretrained.weights_file",
        "paredown.models.cifar.resnet.identity",
        "paredown.data.cache.shutil",
        "paredown.methods.sparse.ssc.method.dataclass",
        "paredown.tracking.__main__.main",
    ],
)
def test_to_be_of_the_project_is_not_enough(place: Place, target: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{target} (is neither|is no concrete subclass|makes no model)"):
        place(tmp_path, target)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("target", ["os", "", "..os.system", "os.system;1", "a..b", "os:system", "os.systém", "\nos.x"])
def test_what_is_no_dotted_path_is_refused(place: Place, target: str, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        place(tmp_path, target)


@pytest.mark.parametrize("value", [None, 5, ["os.system"], {"_target_": "os.system"}])
def test_a_target_is_text(value: object) -> None:
    for ask in (open_data, lambda data: blueprint.build(data, {})):
        with pytest.raises(UserError, match="text: the dotted path"):
            ask({"_target_": value})  # type: ignore[operator]


@pytest.mark.parametrize("name", ["stranger", "stranger.code", "stranger.code:Mine", "stranger.code.Mine"])
def test_what_the_user_trusts_is_called(name: str, package: Path) -> None:
    trust.trust([name])
    assert type(open_data({**DIGITS, "_target_": "stranger.code.Mine"})).__name__ == "Mine"


@pytest.mark.parametrize("name", ["strange", "stranger.co", "stranger.code:Min", "stranger.code:called", "other"])
def test_trust_ends_where_a_name_ends(name: str, package: Path) -> None:
    trust.trust([name])
    with pytest.raises(UserError, match="neither imported nor called"):
        open_data({**DIGITS, "_target_": "stranger.code.Mine"})


def test_trust_is_for_a_kind_too(package: Path, tmp_path: Path) -> None:
    for words in (["method._target_=stranger.code.Mine"], ["model._target_=stranger.code.called"]):
        with pytest.raises(UserError, match=r"is no concrete subclass of Method|makes no model"):
            experiment(tmp_path, "trust=stranger", *words)
    assert not (package / "CALLED").exists()


def test_trust_changes_no_key(package: Path, tmp_path: Path) -> None:
    plain, trusting = experiment(tmp_path), experiment(tmp_path, "trust=[stranger,somebody.else:Net]")
    assert (trusting.key, trusting.folder) == (plain.key, plain.folder)
    assert [step.key for step in trusting.steps] == [step.key for step in plain.steps]


@pytest.mark.parametrize("name", ["a b", "os;x", "-x", "a..b", "1a", "/etc", "é"])
def test_trust_is_in_dotted_names(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^trust\[?\.?0"):
        prepare({**compose([*SMALL, f"output={tmp_path}"]), "trust": [name]})


def test_a_plugin_is_what_an_installed_package_declares(package: Path) -> None:
    info = package.parent / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.PLUGINS}]\nmine = stranger.code:Mine\n")
    plugins.plugins.cache_clear()
    assert "stranger.code.Mine" in plugins.plugins() and not (package / "IMPORTED").exists()
    assert type(open_data({**DIGITS, "_target_": "stranger.code.Mine"})).__name__ == "Mine"
    with pytest.raises(UserError, match="neither imported nor called"):
        open_data({**DIGITS, "_target_": "stranger.code.called"})


NESTED = [{"_target_": "os.system"}, {"deep": [{"er": {"_target_": "os.system", "command": "x"}}]}]


@pytest.mark.parametrize("value", NESTED, ids=["dict", "deep"])
@pytest.mark.parametrize("setting", ["name", "root", "mean", "augment", "transform"])
def test_values_are_data(setting: str, value: object) -> None:
    with pytest.raises(UserError, match=rf"^dataset\.{setting}.*_target_='os\.system': values are data"):
        open_data({**DIGITS, setting: value})


def test_an_interpolation_of_a_record_is_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = open_data({**DIGITS, "cache": "${oc.env:HOME}/x", "root": "${oc.env:HOME}"})
    assert made.root == tmp_path / "${oc.env:HOME}"


def test_a_yaml_cannot_say_what_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = Path(shutil.copytree(config.CONF, tmp_path / "conf"))
    (conf / "experiment").mkdir(exist_ok=True)
    (conf / "experiment" / "shared.yaml").write_text("# @package _global_\ntrust: [os]\n")
    monkeypatch.setattr(config, "CONF", conf)
    for made in (compose, lambda words: list(compose_all([words]))):
        with pytest.raises(UserError, match=r"^trust=\['os'\] comes from a yaml file"):
            made(["experiment=shared"])  # type: ignore[operator]
    assert compose(["experiment=shared", "trust=[mine]"])["trust"] == ["mine"]


@pytest.mark.parametrize(
    "text",
    [
        "overrides: ['trust=[os]']",
        "overrides: ['++trust=os']",
        "grid: {trust: [[os]]}",
        "grid: {+trust: [os]}",
        "points: [['seed=1', 'trust=os']]",
        "search: {space: {trust: {choices: [os]}}}",
        "overrides: ['hydra.searchpath=[file:///tmp]']",
        "overrides: ['+hydra.callbacks.x._target_=os.system']",
        "overrides: ['hydra/job_logging=default']",
        "cluster: {kind: ray, address: 'elsewhere:6379'}",
    ],
)
def test_a_sweep_file_neither_trusts_nor_joins(text: str, tmp_path: Path) -> None:
    path = tmp_path / "shared.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="type it"):
        load([f"sweep={path}"])


def test_typed_words_trust_and_join(tmp_path: Path) -> None:
    path = tmp_path / "shared.yaml"
    path.write_text("cluster: {address: 'elsewhere:6379'}\n")
    made = load([f"sweep={path}", "trust=[mine]", "cluster=ray", "cluster.address=here:6379"])
    assert "trust=[mine]" in made.typed and made.cluster.address == "here:6379"


@pytest.mark.parametrize("word", ["hydra.launcher=x", "+hydra.callbacks.x._target_=os.system"])
def test_what_hydra_would_read_or_call_is_refused(word: str) -> None:
    for made in (compose, lambda words: list(compose_all([words]))):
        with pytest.raises(UserError, match="no setting of an experiment"):
            made([word])  # type: ignore[operator]
