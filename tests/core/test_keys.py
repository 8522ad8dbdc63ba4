"""Identity: what changes a key and what does not, and the keys of every method, pinned."""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, make_dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import paredown
from paredown.core import kinds
from paredown.core.config import CONF, compose
from paredown.core.errors import UserError
from paredown.core.hooks import Hooks
from paredown.core.keys import (
    HOW_IT_RAN,
    IDENTITY,
    _defaults,
    described,
    digest,
    identified,
    identity,
    identity_of,
    rank_regime,
    setting,
    stage_key,
    without_defaults,
)
from paredown.core.kinds import LayerKind
from paredown.core.plan import Edit, Fit
from paredown.core.recipe import Recipe
from paredown.experiment.experiment import Experiment
from paredown.experiment.prepare import prepare
from paredown.tracking.tracker import flatten

GOLDEN = Path(__file__).parents[1] / "golden" / "keys.json"
DEFAULTS = GOLDEN.with_name("defaults.json")
ROOMS = ("core", "cost", "data", "experiment", "methods", "models", "surgery", "training")
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
# under which a method that needs a target or a choice plans at all
NEEDED = {
    "alds": "speed_up=2",
    "autoslim": "speed_up=2",
    "c_sgd": "speed_up=2",
    "cnn_fcf": "speed_up=2",
    "deep_r": "sparsity=0.9",
    "dsr": "sparsity=0.9",
    "fpgm": "speed_up=2",
    "gradual": "sparsity=0.9",
    "grasp": "sparsity=0.9",
    "group_norm": "speed_up=2",
    "jaderberg": "speed_up=2",
    "l1_filters": "speed_up=2",
    "lottery": "sparsity=0.9",
    "lr_s2": "speed_up=2",
    "magnitude": "sparsity=0.9",
    "mlprune": "sparsity=0.9",
    "nisp": "speed_up=2",
    "obd": "sparsity=0.9",
    "rigl": "sparsity=0.9",
    "set": "sparsity=0.9",
    "sfp": "speed_up=2",
    "slimming": "speed_up=2",
    "snip": "sparsity=0.9",
    "ssc": "sparsity=0.9",
    "synflow": "sparsity=0.9",
    "zhang": "speed_up=2",
}


def edit(network: Any, context: Any, rank: int, exact: bool = False) -> None:
    """An edit to name."""


def key(stage: Any, **more: Any) -> str:
    return stage_key(stage, "parent", 0, "data", **more)


def edited(version: int = 1, kind: str = "masked", **arguments: Any) -> Edit:
    def function(network: Any, context: Any, rank: int = 1, exact: bool = False) -> None: ...

    return Edit("cut", identity("test/cut", version, kinds=[kind])(function), arguments)


def test_a_moved_file_changes_no_key() -> None:
    source = "from paredown.core.keys import identity\n@identity('test/cut')\ndef cut(network, context, rank): ...\n"
    moved = []
    for name in ("first.place", "another.room.altogether"):
        module = ModuleType(name)
        sys.modules[name] = module
        exec(compile(source, name, "exec"), vars(module))
        module.cut.__module__ = name
        moved.append(key(Edit("cut", module.cut, {"rank": 3})))
    assert moved[0] == moved[1]


def test_a_new_setting_with_a_default_changes_no_key() -> None:
    new = identity("recipe")(make_dataclass("Recipe", [("begin", int, field(default=0))], bases=(Recipe,), frozen=True))
    assert key(Fit("train", new(epochs=2))) == key(Fit("train", Recipe(epochs=2)))
    assert key(Fit("train", new(epochs=2, begin=1))) != key(Fit("train", Recipe(epochs=2)))
    assert key(edited(rank=3)) == key(edited(rank=3, exact=False)) != key(edited(rank=3, exact=True))
    assert key(edited()) == key(edited(rank=1))  # said or not, a default is the same value


def test_equal_values_are_one_value() -> None:
    assert key(edited(rank=2)) == key(edited(rank=2.0)) != key(edited(rank=2.5))
    assert key(edited()) == key(edited(rank=1.0))
    assert key(Fit("f", Recipe(1, learning_rate=1))) == key(Fit("f", Recipe(1, learning_rate=1.0)))

    def build(image_size: tuple[int, int] = (32, 32), width: float = 1.0, *, depth: int) -> None: ...

    assert without_defaults(build, {"image_size": [32, 32], "width": 1, "depth": 8}) == {"depth": 8}
    assert without_defaults(build, {"image_size": [16, 32]}) == {"image_size": [16, 32]}
    assert identified([float("inf"), True, "2.0", -0.0]) == [float("inf"), True, "2.0", 0]
    assert [type(value) for value in identified([2.0, True, 2.5])] == [int, bool, float]


def test_a_changed_computation_changes_its_own_key() -> None:
    keys = {key(edited(version=version)) for version in (1, 2, 3)}
    assert len(keys) == 3
    first, second = (identity("test/hook", version)(type("Hook", (Hooks,), {})) for version in (1, 2))
    make = dataclass(frozen=True)
    assert key(Fit("f", Recipe(1), (make(first)(),))) != key(Fit("f", Recipe(1), (make(second)(),)))


def test_a_changed_layer_kind_changes_the_edits_that_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {kind: key(edited(kind=kind)) for kind in ("masked", "ssc")}
    monkeypatch.setitem(kinds.KINDS.own, "ssc", LayerKind("paredown.layers.ssc.layer", version=2))
    after = {kind: key(edited(kind=kind)) for kind in ("masked", "ssc")}
    assert after["masked"] == before["masked"] and after["ssc"] != before["ssc"]


def test_how_it_ran_is_no_part_of_a_key() -> None:
    assert HOW_IT_RAN["identity"] is False
    recipe = Recipe(epochs=2)
    for name, value in (("channels_last", False), ("compile", True)):
        assert key(Fit("train", replace(recipe, **{name: value}))) == key(Fit("train", recipe))
    for name, value in (("precision", "bf16"), ("learning_rate", 0.2), ("batch_size", 64)):
        assert key(Fit("train", replace(recipe, **{name: value}))) != key(Fit("train", recipe))
    packed = identity("test/packed", counts=False)(dataclass(frozen=True)(type("Packed", (Hooks,), {})))
    assert key(Fit("train", recipe, (packed(),))) == key(Fit("train", recipe))


def test_what_has_no_name_is_refused() -> None:
    with pytest.raises(TypeError, match=r"test_keys\.edit has no name for keys: decorate it with @identity"):
        Edit("cut", edit, {})
    with pytest.raises(TypeError, match="has no name"):
        digest(make_dataclass("Nameless", [])())
    child = type("Child", (identity("test/parent")(type("Parent", (Hooks,), {})),), {})
    with pytest.raises(TypeError, match="has no name"):
        identity_of(child)  # it may compute something else
    with pytest.raises(TypeError, match="plain values only, got <object"):
        digest({"a": object()})


def test_described_is_whole_and_readable() -> None:
    found = described(Fit("train", Recipe(epochs=2)))
    assert found["is"] == "fit" and found["recipe"]["is"] == "recipe"
    assert found["recipe"]["learning_rate"] == 0.1 and found["recipe"]["compile"] is False
    assert json.loads(json.dumps(found)) == found


def test_the_regime_of_ranks() -> None:
    assert rank_regime(1, False) == rank_regime(1, True) == {}
    assert rank_regime(2, False) != rank_regime(4, False)
    assert rank_regime(2, True) != rank_regime(4, True)  # shares of batches are uneven, and last ones dropped
    regimes = [rank_regime(*regime) for regime in ((1, False), (2, False), (2, True))]
    assert len({key(Fit("train", Recipe(1)), regime=regime) for regime in regimes}) == 3


def experiment(tmp_path: Path, method: str, *more: str) -> Experiment:
    small = ["dataset=digits", "model=resnet20", "recipe.precision=32", f"output={tmp_path}"]
    return prepare(compose([f"method={method}", *small, *more, *([NEEDED[method]] if method in NEEDED else [])]))


def keys_of(tmp_path: Path, method: str, *more: str) -> dict[str, str]:
    return {step.stage.name: step.key for step in experiment(tmp_path, method, *more).steps}


def test_ranks_count_in_fits(tmp_path: Path) -> None:
    one = keys_of(tmp_path, "ssc")
    two = keys_of(tmp_path, "ssc", "trainer.devices=2")
    assert one["ssc"] == two["ssc"] and one["train"] != two["train"]  # the edit sees whole batches everywhere
    synchronised = keys_of(tmp_path, "ssc", "trainer.devices=2", "trainer.sync_batchnorm=true")
    assert len({one["train"], two["train"], synchronised["train"]}) == 3
    assert keys_of(tmp_path, "ssc", "trainer.sync_batchnorm=true") == one
    for same in ("trainer.threads=1", "trainer.eval_batch_size=7", "method.packed=false", "recipe.compile=true"):
        assert keys_of(tmp_path, "ssc", same) == one


def test_the_keys_of_every_method_are_pinned(tmp_path: Path) -> None:
    """Where this fails, stored results of the methods named are not found any more: is that meant? Then raise the
    version of what computes something else, and write the new keys: `python tests/golden/write.py`."""
    found = {method: keys_of(tmp_path, method) for method in METHODS}
    pinned: Mapping[str, Any] = json.loads(GOLDEN.read_text())
    assert found == pinned


def named() -> dict[str, Any]:
    """Everything in the package that has an identity, by its name and version."""
    found: dict[str, Any] = {}
    for path in sorted((Path(paredown.__file__).parent).rglob("*.py")):
        name = ".".join(path.relative_to(Path(paredown.__file__).parents[1]).with_suffix("").parts)
        if "__" in path.stem or not any(name.startswith(f"paredown.{room}.") for room in ROOMS):
            continue
        for thing in vars(importlib.import_module(name)).values():
            if getattr(thing, "__module__", None) == name and IDENTITY in getattr(thing, "__dict__", {}):
                own = str(identity_of(thing))
                assert found.setdefault(own, thing) is thing, f"two things are called {own}"
    return found


def defaults() -> dict[str, Any]:
    """The identified defaults of everything that has a name, and whether a hook keeps its best epoch."""
    found = {}
    for name, thing in named().items():
        if isinstance(thing, type):
            values = dict(_defaults(thing))
            own = {"keeps_best": True} if getattr(thing, "keeps_best", False) is True else {}
        else:
            parameters = inspect.signature(thing).parameters.values()
            values, own = {item.name: item.default for item in parameters if item.default is not item.empty}, {}
        found[name] = {key: identified(value) for key, value in values.items()} | own
    return found


def test_a_default_changes_with_a_new_version_alone() -> None:
    """A value at its default is no part of a key, so a changed default would serve what the old one made. Where this
    fails: raise the version of what is named, then `python tests/golden/write.py`. A new setting, or a new name, needs
    the second alone."""
    assert defaults() == json.loads(DEFAULTS.read_text())


def test_no_key_is_made_of_a_python_path(tmp_path: Path) -> None:
    for method in METHODS:
        for step in experiment(tmp_path, method).steps:
            assert "paredown" not in json.dumps(identified(step.stage)), step.stage


def test_every_method_plans_and_its_keys_differ(tmp_path: Path) -> None:
    pinned: dict[str, dict[str, str]] = json.loads(GOLDEN.read_text())
    last = [list(keys.values())[-1] for keys in pinned.values()]
    assert len(set(last)) == len(METHODS) == len(pinned)
    with pytest.raises(UserError):
        experiment(tmp_path, "dense", "sparsity=0.5").steps  # noqa: B018


def test_a_setting_is_told_by_what_was_asked_not_by_how_it_ran() -> None:
    run = {"method._target_": "paredown.methods.ssc.SSC", "seed": "0", "trainer.devices": "1", "sparsity": "0.9"}
    moved = run | {"method._target_": "paredown.methods.sparse.ssc.method.SSC", "seed": "3", "output": "/elsewhere"}
    assert setting(run) == setting(moved | {"deploy": "plain", "speed_up": "null", "trainer.threads": "2"})
    assert setting(run) != setting(run | {"sparsity": "0.8"})
    assert setting(run) != setting(run | {"trainer.devices": "2"})  # another network
    assert setting(run | {"recipe.compile": "true"}) == setting(run)


@pytest.mark.parametrize("method", ["dense", "snip", "grasp", "synflow", "magnitude", "lottery", "svd_nas"])
def test_a_run_of_the_version_before_is_one_setting_with_the_same_run_now(method: str) -> None:
    now = dict(flatten(compose([f"method={method}", "model=resnet20"])))
    new = {"budget.images", "budget.epochs", "budget.reference", "latency_speed_up", "model.head", "recipe.warmup"}
    new |= {"method.interspace", "method.basis"} | ({"method.rounds"} if method == "magnitude" else set())
    before = {name: value for name, value in now.items() if name not in new}
    assert len(before) <= len(now) - 6 and setting(before) == setting(now)
    assert setting(now | {"recipe.warmup": "0.3"}) != setting(now) != setting(now | {"budget.epochs": "6"})
