"""Mistakes in a configuration: each is refused in one line before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from paredown.core.config import CONF, compose
from paredown.core.errors import UserError
from paredown.experiment.experiment import Experiment
from paredown.experiment.prepare import _controlled, check, open_data, prepare
from paredown.sweep.planning import plan
from paredown.sweep.spec import Resources, Sweep
from paredown.training.machine import Machine, require_devices, usable_cores


def experiment(tmp_path: Path, *words: str) -> Experiment:
    small = ("dataset=digits", "model=resnet20", "model.depth=8", "recipe.precision=32", f"output={tmp_path}")
    return prepare(compose([*small, *words]))


WHOLE = "(a whole number, at least 0)"
SYNCHRONISED = ("trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.sync_batchnorm=true")
LINES = {
    ("seed=abc",): f"seed='abc' {WHOLE}",
    ("seed=null",): f"seed=null {WHOLE}",
    ("seed=true",): f"seed=true {WHOLE}",
    ("seed=[1,2]",): f"seed=[1, 2] {WHOLE}",
    ("seed=1.5",): f"seed=1.5 {WHOLE}",
    ("seed=-1",): "seed=-1 (at least 0)",
    ("seed=-1", "seeds=0", "latency.batch=0"): "latency.batch=0 (at least 1: it is the number of images timed at "
    "once); seed=-1 (at least 0); seeds=0 (at least 1)",
    ("output=null",): "output=null (text)",
    ("latency=null",): "latency=null (a mapping)",
    ("transfer=null",): "transfer=null (a mapping)",
    ("transfer.mode=all",): "transfer.mode='all': known: finetune, mask_only",
    ("~trainer",): "trainer is not set",
    ("control=false",): "control=false: known: dense, null, random, uniform",
    ("reproduce=5",): "reproduce=5 (text, or null)",
    ("seeds=many",): "seeds='many' (a whole number, at least 1)",
    ("sparsity=nan",): "sparsity=nan (a finite number, or null)",
    ("sparsity=true",): "sparsity=true (a number, finite, or null)",
    ("speed_up=inf",): "speed_up=inf (a finite number, or null)",
    ("speed_up=fast",): "speed_up='fast' (a number, finite, or null)",
    ("tracking.uri=null",): "tracking.uri=null (text)",
    ("model.weights=3",): "model.weights=3: no such file (a path, a URL, or imagenet1k_v1 for torchvision's first "
    "weights)",
    ("model.width=0",): "model.width=0 (above 0: 0.5, 1, 2, ...)",
    ("model.width=0.3",): "model.width=0.3 does not multiply 16 to a whole number: take 0.5, 1, 2, ...",
    ("model.width=true",): "model.width=true (a number, above 0: 0.5, 1, 2, ...)",
    ("model.depth=abc",): "model.depth='abc' (a whole number, at least 1)",
    ("+model.blok=basic",): "model.blok is no setting of cifar_resnet: did you mean block? known: block, depth, "
    "in_channels, num_classes, shortcut, width",
    ("~model.depth",): "model.depth is not set",
    ("+dataset.nam=x",): "dataset.nam is no setting of Digits: did you mean name? known: augment, cache, classes, "
    "fraction, mean, name, root, split_seed, std, validation",
    ("~dataset.name",): "dataset.name is not set",
    ("trainer.strategy=foo",): "trainer.strategy='foo': known: auto, ddp, ray",
    ("trainer.accelerator=tpuu",): "trainer.accelerator='tpuu': did you mean gpu or cpu? known: auto, cpu, cuda, gpu",
    ("recipe.gamma=nan",): "recipe.gamma=nan (a finite number, above 0)",
    ("recipe.gamma=-3",): "recipe.gamma=-3 (above 0)",
    ("recipe.precision=null",): "recipe.precision=null: known: 16, 32, auto, bf16",
    ("recipe.precision=fp32",): "recipe.precision='fp32': did you mean 32? known: 16, 32, auto, bf16",
    ("latency.seconds=inf",): "latency.seconds=inf (a finite number, at least 0)",
    ("dataset.mean=null",): "dataset.mean=null (a list)",
    ("dataset.mean=abc",): "dataset.mean='abc' (a list)",
    ("dataset.mean=[nan]",): "dataset.mean.0=nan (a finite number)",
    ("dataset.std=[nan]",): "dataset.std.0=nan (a finite number, above 0)",
    ("dataset.std=[0]",): "dataset.std.0=0 (above 0)",
    ("dataset.augment=5",): "dataset.augment=5 (a mapping, or null)",
    (
        "dataset.validation=true",
    ): "dataset.validation=true (a number, a count, or a fraction below 1; 0 holds out none)",
    ("dataset.fraction=0",): "dataset.fraction=0 (in (0, 1]: 0.2 keeps a fifth of the training images)",
    ("dataset.classes=1",): "dataset.classes=1 (at least 2; null keeps all)",
    ("method=svd_training", "method.finetune=5"): "method.finetune=5 (a mapping)",
    ("method=ssc", "method.packed=maybe"): "method.packed='maybe': known: auto, false, true",
    (
        "method._target_=paredown.methods.nope.Nope",
    ): "method._target_=paredown.methods.nope.Nope: there is no such class or function: no module "
    "paredown.methods.nope (is its folder on PYTHONPATH?)",
    ("method._target_=null",): "method._target_=null (text: the dotted path of a class or function)",
    ("dataset._target_=paredown.data.images.ImageData",): "dataset._target_=paredown.data.images.ImageData is no "
    "concrete subclass of ImageData",
    ("model._target_=paredown.models.nope.make",): "model._target_=paredown.models.nope.make: there is no such class "
    "or function: no module paredown.models.nope (is its folder on PYTHONPATH?)",
    ("model._target_=paredown.models.cifar.resnet.CifarResNet",): "model._target_=paredown.models.cifar.resnet."
    "CifarResNet makes no model",
}


@pytest.mark.parametrize("words", LINES, ids=" ".join)
def test_a_mistake_is_refused_in_one_line(words: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        experiment(tmp_path, *words).steps  # noqa: B018
    assert str(raised.value) == LINES[words]


@pytest.mark.parametrize("group", ["method", "dataset", "model"])
def test_nothing_but_a_class_of_its_kind_is_called(group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[object] = []
    monkeypatch.setattr(os, "system", lambda *arguments, **named: called.append(arguments))
    with pytest.raises(UserError, match=rf"^{group}\._target_=os\.system is neither imported nor called: .* trust=os"):
        experiment(tmp_path, f"{group}._target_=os.system")
    with pytest.raises(UserError, match=r"^dataset\.augment\._target_='os\.system': values are data"):
        experiment(tmp_path, "+dataset.augment._target_=os.system")
    assert not called


TARGETS = {"ssc": "sparsity=0.5", "jaderberg": "speed_up=1.5", "zhang": "speed_up=1.5", "alds": "sparsity=0.5"}
TARGETS |= {"lr_s2": "speed_up=1.5"}


@pytest.mark.parametrize("method", sorted(path.stem for path in (CONF / "method").glob("*.yaml")))
def test_no_number_of_any_setting_is_nan(method: str, tmp_path: Path) -> None:
    small = ["dataset=digits", "model=resnet20", "model.depth=8", "debug=fast", f"output={tmp_path}"]
    config = compose([*small, f"method={method}", *([TARGETS[method]] if method in TARGETS else [])])
    data = open_data(config["dataset"])
    assert prepare(config, lambda _: data)
    for path in [*numbers(config)]:
        wrong = deepcopy(config)
        *above, last = path
        reduce(getitem, above, wrong)[last] = float("nan")
        opener = open_data if path[0] == "dataset" else lambda _: data
        with pytest.raises(UserError, match=f"{last}=nan" if isinstance(last, str) else f"{above[-1]}.*nan"):
            prepare(wrong, opener)


def numbers(values: Any) -> Iterator[tuple[Any, ...]]:
    """Yield where in a configuration a number stands, or null where one may stand."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, dict | list):
            yield from ((key, *below) for below in numbers(value))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield (key,)


EQUAL = [
    ("seed=1", "seed=1.0"),
    ("model.width=2", "model.width=2.0"),
    ("model.depth=8", "model.depth=8.0"),
    ("dataset.validation=0", "dataset.validation=0.0"),
    ("recipe.learning_rate=1", "recipe.learning_rate=1.0"),
    ("latency.seconds=1", "latency.seconds=1.0"),
]


@pytest.mark.parametrize(("one", "other"), EQUAL)
def test_equal_values_have_one_key_and_one_folder(one: str, other: str, tmp_path: Path) -> None:
    first, second = experiment(tmp_path, one), experiment(tmp_path, other)
    assert first.steps[-1].key == second.steps[-1].key
    assert (first.key, first.folder) == (second.key, second.folder)
    assert type(second.config["seed"]) is int


def test_nodes_need_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(accelerator="cpu", nodes=2)
    with pytest.raises(UserError, match=r"^trainer\.nodes=2: start it on every node, by torchrun --nnodes 2"):
        require_devices(machine)
    set_rank(monkeypatch)
    require_devices(machine)
    with pytest.raises(UserError, match=r"^2 ranks were started, but trainer\.devices=1 and trainer\.nodes=3 make 3"):
        require_devices(Machine(accelerator="cpu", nodes=3))


def set_rank(monkeypatch: pytest.MonkeyPatch, rank: int = 0, ranks: int = 2) -> None:
    """Set what a launcher of `ranks` processes tells one of them."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "LOCAL_RANK": str(rank)}
    for name, value in ({"RANK": str(rank), "WORLD_SIZE": str(ranks)} | where).items():
        monkeypatch.setenv(name, value)


def test_more_processes_than_cores_are_refused() -> None:
    cores = usable_cores()
    require_devices(Machine(accelerator="cpu", devices=cores))
    with pytest.raises(UserError, match=rf"^trainer\.devices={cores + 1}: this machine has {cores} processor cores"):
        require_devices(Machine(accelerator="cpu", devices=cores + 1))


def test_batch_norm_is_synchronised_on_gpus_only(tmp_path: Path) -> None:
    """Planned anywhere, with a key of its own; run on a GPU."""
    synchronised = experiment(tmp_path, *SYNCHRONISED)
    assert synchronised.steps[-1].key != experiment(tmp_path, *SYNCHRONISED[:-1]).steps[-1].key
    with pytest.raises(UserError, match=r"^trainer\.sync_batchnorm=true on several CPU processes: torch"):
        require_devices(synchronised.machine)
    overrides = (*SYNCHRONISED[2:], "dataset=digits", "model=resnet20", f"output={tmp_path}")
    with pytest.raises(UserError, match=r"trainer\.sync_batchnorm=true on several CPU processes: torch"):
        plan(Sweep("mine", overrides=overrides, resources=Resources(workers=2)))


def test_a_strategy_of_sweeps_is_no_single_run_s() -> None:
    with pytest.raises(UserError, match=r"^trainer\.strategy=ray is set by sweeps"):
        require_devices(Machine(accelerator="cpu", strategy="ray"))


def test_the_top_level_is_checked_alone() -> None:
    settings = check(compose(["seed=2.0", "seeds=4"]))
    assert (settings.seed, settings.seeds, settings.control) == (2, 4, None)


def test_a_control_cannot_be_given_the_images_of_pretrained_weights() -> None:
    steps = [SimpleNamespace(key="k", stage=SimpleNamespace(name="train"))]
    config = {"control": "random", "model": {"weights": "my.safetensors"}}
    point = SimpleNamespace(config=config, steps=steps, store=SimpleNamespace(has=lambda key: True))
    with pytest.raises(UserError, match=r"^control=random: the images that model\.weights were trained on"):
        _controlled(point)  # type: ignore[arg-type]


def test_a_mistake_in_the_plan_decides_and_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What `precision=auto` becomes is kept in the output, and told, once something is going to be trained."""
    made = experiment(tmp_path, "method=snip", "dataset=digits", "model=resnet20", "recipe.precision=auto")
    with caplog.at_level("INFO"), pytest.raises(UserError, match="snip prunes to a target"):
        made.begun()
    assert not caplog.text and not list(tmp_path.rglob("precision-*"))
