"""The Python API: an nn.Module in, an nn.Module out, on plain loaders; its docstrings run."""

from __future__ import annotations

import copy
import doctest
import importlib
import random
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

import paredown
from paredown.core import blueprint, trust
from paredown.core.requests import Failure
from paredown.models import live

SHAPE = (1, 8, 8)
DIGITS = load_digits()
IMAGES, LABELS = torch.tensor(DIGITS.images[:, None] / 16, dtype=torch.float32), torch.tensor(DIGITS.target)


def loader(first: int, last: int, **settings) -> DataLoader:
    return DataLoader(TensorDataset(IMAGES[first:last], LABELS[first:last]), batch_size=50, **settings)


def train(network: nn.Module, epochs: int) -> nn.Module:
    optimizer = torch.optim.Adam(network.parameters(), 2e-3)
    for _ in range(epochs):
        for images, labels in loader(0, 600):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
    return network


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    body = [nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU()]
    return train(nn.Sequential(*body, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10)), 4)


def test_the_readmes_lines(net: nn.Module, tmp_path: Path) -> None:
    small = paredown.compress(
        net, "zhang", speed_up=2, train=loader(0, 600, shuffle=True), test=loader(600, 900), epochs=1, images=200,
        progress=False,
    )  # fmt: skip
    report = small.report
    assert report.stages == ("decompose", "finetune") and len(report.history) == 1
    assert set(report.changed) | set(report.left) == {"0", "3", "7"}
    assert paredown.count(small, SHAPE).macs == report.cost.macs < paredown.count(net, SHAPE).macs / 1.9
    assert paredown.compare_latency(net, small, (4, *SHAPE), seconds=0.05).dense_ms > 0
    with torch.no_grad():
        right = (small(IMAGES[600:900]).argmax(1) == LABELS[600:900]).float().mean().item()
    assert report.metrics["final/top1"] == pytest.approx(100 * right, abs=0.4)
    assert f"({report.metrics['cost/speed_up']:.2f}x fewer)" in str(report)
    assert f"-> {report.metrics['final/top1']:.2f} %" in str(report)
    plain = paredown.deploy(small)
    assert all(type(layer).__module__.startswith("torch.") for layer in plain.modules())
    files = paredown.export(small, tmp_path, formats=["onnx"])
    assert files["onnx"].is_file()


def test_the_module_and_the_process_are_left_as_they_were(net: nn.Module) -> None:
    net.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    states = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    paredown.compress(net, "magnitude", sparsity=0.5, train=loader(0, 100), epochs=1, progress=False)
    assert net.training and all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not hasattr(net, "report")
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1])
    assert torch.equal(states[0], after[0]) and states[1] == after[1] and (states[2] == after[2]).all()


@pytest.mark.parametrize(
    ("method", "target"),
    [
        *(("ssc", {"sparsity": 0.63}), ("lr_s2", {"speed_up": 2}), ("alds", {"speed_up": 2})),
        *(("magnitude", {"sparsity": 0.8}), ("synflow", {"sparsity": 0.8}), ("jaderberg", {"speed_up": 1.5})),
    ],
)
def test_methods_that_need_no_training_data_need_no_loaders(net: nn.Module, method: str, target: dict) -> None:
    small = paredown.compress(net, method, input_shape=SHAPE, **target)
    assert "nothing was trained" in str(small.report) and "final/top1" not in small.report.metrics
    ((quantity, wanted),) = target.items()
    assert small.report.metrics[f"cost/{quantity}"] == pytest.approx(wanted, rel=0.2)
    assert small(torch.zeros(1, *SHAPE)).shape == (1, 10)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *(("zhang", {"speed_up": 2}), ("snip", {"sparsity": 0.5}), ("grasp", {"sparsity": 0.5})),
        *(("trp", {"speed_up": 2}), ("svd_training", {"speed_up": 2, "init": "dense"}), ("dense", {})),
    ],
)
def test_one_that_needs_them_says_so_in_one_line(net: nn.Module, method: str, settings: dict) -> None:
    with pytest.raises(paredown.UserError, match=r"give train=, a DataLoader or a folder"):
        paredown.compress(net, method, input_shape=SHAPE, **settings)


def test_a_store_keeps_the_stages(net: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"sparsity": 0.8, "train": loader(0, 200), "epochs": 1, "progress": False, "store": tmp_path}
    first = paredown.compress(net, "magnitude", **settings)
    monkeypatch.setattr("paredown.training.fit.fit", lambda *_: pytest.fail("trained again"))
    again = paredown.compress(net, "magnitude", **settings)
    assert first.report.key == again.report.key
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    (state,) = tmp_path.glob(f"store/*/{first.report.key}")
    assert torch.equal(paredown.load(state, network=net)(IMAGES[:4]), first(IMAGES[:4]))


def test_other_weights_another_network_or_other_images_are_other_keys(net: nn.Module) -> None:
    def key(module: nn.Module, images: DataLoader, **more) -> str:
        settings = {"sparsity": 0.5, "train": images, "epochs": 1, "progress": False}
        return paredown.compress(module, "magnitude", **settings, **more).report.key

    class Scaled(nn.Sequential):
        def forward(self, images):
            return 2 * super().forward(images)

    other = copy.deepcopy(net)
    with torch.no_grad():
        other[7].bias.add_(1)
    keys = [
        key(net, loader(0, 100)), key(other, loader(0, 100)), key(net, loader(50, 150)),
        key(Scaled(*net), loader(0, 100)), key(net, loader(0, 100), trained=False), key(net, loader(0, 100), seed=1),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)


class Noisy(Dataset):
    def __len__(self):
        return 60

    def __getitem__(self, row):
        return IMAGES[row] + 0.1 * torch.rand(1), int(LABELS[row])


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(IMAGES[row], int(LABELS[row])) for row in range(40)])


@pytest.mark.parametrize(
    ("given", "images"),
    [
        (DataLoader(Noisy(), batch_size=20, shuffle=True), 60),
        (DataLoader(Stream(), batch_size=20), 40),
        ([(IMAGES[:50], LABELS[:50]), (IMAGES[50:90], LABELS[50:90])], 90),
        (loader(0, 80, sampler=torch.utils.data.SubsetRandomSampler(range(30))), 30),
    ],
    ids=["map", "iterable", "list", "subset"],
)
def test_loaders_of_every_kind(net: nn.Module, given, images: int) -> None:
    from paredown.api.images import GivenData, GivenImages

    data = GivenData(GivenImages(given, "train"), None, SHAPE, 10)
    data.prepare()
    assert data.sizes["train"] == images and data.eval_splits == []
    seen = torch.cat([labels for _, labels in data.train_loader(20, 0, "cpu")])
    assert len(seen) == images and sorted(seen.tolist()) == sorted(data._splits["train"][0].labels.tolist())
    small = paredown.compress(net, "magnitude", sparsity=0.5, train=given, epochs=1, progress=False)
    assert "top-1" not in str(small.report)


def test_a_folder_of_photos(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(3):
        (tmp_path / f"class{number}").mkdir()
        for image in range(12):
            pixels = np.random.default_rng(image).integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / f"class{number}" / f"{image}.png")
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    small = paredown.compress(
        net, "magnitude", sparsity=0.5, train=tmp_path, input_shape=(3, 16, 16), epochs=1, progress=False,
        recipe={"batch_size": 8},
    )  # fmt: skip
    assert small.report.input_shape == (3, 16, 16) and "final/top1" in small.report.metrics
    with pytest.raises(
        paredown.UserError, match=r"input_shape=\(1, 16, 16\): the images of .* are read as \(3, 16, 16\)"
    ):
        paredown.compress(net, "magnitude", sparsity=0.5, train=tmp_path, input_shape=(1, 16, 16), epochs=1)


THEIRS = """import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, images):
        return self.layer(images.flatten(1))
"""


class ADict(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, images):
        return {"logits": self.layer(images.flatten(1))}


def weight_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.Flatten(), nn.utils.weight_norm(nn.Linear(64, 10)))


MISTAKES = {
    "loader of one": (lambda net: {"train": 5}, "no DataLoader, folder or iterable"),
    "bytes": (lambda net: {"train": DataLoader(TensorDataset(IMAGES.to(torch.uint8), LABELS))}, "of floats"),
    "labels": (lambda net: {"train": DataLoader(TensorDataset(IMAGES, LABELS + 5))}, "labels from 5 to 14"),
    "soft": (lambda net: {"train": DataLoader(TensorDataset(IMAGES, torch.rand(len(IMAGES), 10)))}, "one class number"),
    "empty": (lambda net: {"train": loader(0, 0)}, "has no images"),
    "sampler": (lambda net: {"train": loader(0, 50, sampler=WeightedRandomSampler([1.0] * 50, 50))}, "shuffle=True"),
    "no shape": (lambda net: {}, "input_shape=(channels, height, width) is needed"),
    "batch in shape": (lambda net: {"input_shape": (1, 1, 8, 8)}, "is not (channels, height, width)"),
    "channels": (lambda net: {"input_shape": (3, 8, 8)}, "does not run on an image of shape (3, 8, 8)"),
    "dict": (lambda net: {"module": ADict(), "input_shape": SHAPE}, "returns a dict of logits, not logits"),
    "parallel": (lambda net: {"module": nn.DataParallel(net), "input_shape": SHAPE}, "give network.module"),
    "lazy": (lambda net: {"module": nn.Sequential(nn.Flatten(), nn.LazyLinear(9)), "input_shape": SHAPE}, "no shape"),
    "text": (lambda net: {"module": "resnet20", "input_shape": SHAPE}, "takes an nn.Module"),
    "method": (lambda net: {"method": "magnitud", "input_shape": SHAPE}, "did you mean magnitude"),
    "hyperparameter": (lambda net: {"lest": 3, "input_shape": SHAPE}, "did you mean least"),
    "value": (lambda net: {"least": -3, "input_shape": SHAPE}, "method.least=-3 (at least 0)"),
    "both": (lambda net: {"speed_up": 2, "input_shape": SHAPE}, "both set"),
    "epochs": (lambda net: {"train": loader(0, 50), "epochs": -1}, "epochs=-1"),
    "recipe": (lambda net: {"train": loader(0, 50), "recipe": {"lr": 1}}, "recipe.lr is no setting"),
    "recipe of a list": (lambda net: {"train": loader(0, 50), "recipe": [1]}, "is not settings by name"),
    "weight norm": (lambda net: {"module": weight_normed(), "input_shape": SHAPE}, "the network cannot be copied"),
    "number as shape": (lambda net: {"train": "/tmp", "input_shape": 5}, "is not (channels, height, width)"),
    "oblong folder": (lambda net: {"train": "/tmp", "input_shape": (3, 8, 16)}, "is oblong"),
    "no folder": (lambda net: {"train": "no/such"}, "there is no folder no/such"),
    "file": (lambda net: {"train": __file__}, f"there is no folder {__file__}"),
    "test folder": (lambda net: {"train": loader(0, 50), "test": "/tmp"}, "test=/tmp is a path"),
    "store": (lambda net: {"input_shape": SHAPE, "store": "/dev/null/x"}, "cannot write"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line(name: str, net: nn.Module) -> None:
    make, said = MISTAKES[name]
    settings = {"module": net, "method": "magnitude", "sparsity": 0.5} | make(net)
    with pytest.raises(paredown.UserError) as raised:
        paredown.compress(settings.pop("module"), settings.pop("method"), **settings)
    assert said in str(raised.value) and "\n" not in str(raised.value)


def test_an_export_that_computes_something_else_is_a_failure(net: nn.Module, tmp_path: Path, monkeypatch) -> None:
    from paredown.export import program_file

    load = program_file.load
    monkeypatch.setattr(
        program_file, "load", lambda path: type("Other", (), {"run": lambda self, x: load(path).run(x) + 1})()
    )
    with pytest.raises(Failure, match="computes something else"):
        paredown.export(net, tmp_path, formats=["program"], input_shape=SHAPE)


def test_a_state_of_a_live_module_is_read_by_nobody_else(net: nn.Module, tmp_path: Path) -> None:
    small = paredown.compress(net, "lr_s2", speed_up=2, input_shape=SHAPE, store=tmp_path)
    (state,) = tmp_path.glob(f"store/*/{small.report.key}")
    code = f"import paredown\ntry: paredown.load({str(state)!r})\nexcept paredown.UserError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "paredown.load(folder, network=module)" in done.stdout


def test_the_networks_that_are_kept_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_GIVEN", {})
    given = [nn.Sequential(nn.Flatten(), nn.Linear(64, 10 + extra)) for extra in range(2 * live.MOST)]
    architectures = [live.give(module) for module in given]
    assert len({id(module) for module in live._GIVEN.values()}) == live.MOST
    with pytest.raises(paredown.UserError, match=r"paredown\.load\(folder, network=module\)"):
        live.live(architectures[0]["digest"], code=architectures[0]["code"])
    assert live.live(architectures[-1]["digest"])[1].out_features == given[-1][1].out_features
    for _ in range(3):  # one that is given again is the latest
        live.give(given[-live.MOST])
    live.give(given[0])
    assert live.live(architectures[-live.MOST]["digest"]) is not None


def test_what_a_state_names_is_run_for_who_trusts_it_in_that_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, folder = tmp_path / "theirs.py", tmp_path / "state"
    file.write_text(THEIRS)
    words = [f"model.source={file}:Net", "dataset=digits", "debug=fast", "model=custom", "method=dense"]
    planned = paredown.Experiment(*words, f"output={tmp_path}").planned
    folder.mkdir()
    blueprint.save(planned.dense(), folder)
    monkeypatch.setattr(trust, "_TRUSTED", set())
    refused = r"is not run: .*paredown\.load\(\.\.\., trust="
    with pytest.raises(paredown.UserError, match=refused):
        paredown.load(folder)
    for name in (file, str(file), [file], (str(file),)):
        assert paredown.load(folder, trust=name)(torch.zeros(2, *SHAPE)).shape == (2, 10)
    with pytest.raises(paredown.UserError, match=refused):
        paredown.load(folder)
    for name in (5, [5], "a b", ["os; x"]):
        with pytest.raises(paredown.UserError, match=r"trust=.*dotted name"):
            paredown.load(folder, trust=name)
    with pytest.raises(paredown.UserError, match=r"is no nn\.Module"):
        paredown.load(folder, 5)


def test_an_experiment_is_planned_before_it_runs(tmp_path: Path) -> None:
    words = ["method=ssc", "model=resnet20", "model.depth=8", "dataset=digits", "debug=fast", f"output={tmp_path}"]
    one = paredown.Experiment(*words, sparsity=0.7)
    assert one.stages == ["ssc", "train"] and len(set(one.keys)) == 2 and one.dense_cost.macs > 0
    assert paredown.Experiment(*words, sparsity=0.8).keys[1] != one.keys[1]
    with pytest.raises(paredown.UserError, match="not between 0 and 1"):
        paredown.Experiment(*words, sparsity=1.5)


def test_run_is_a_function_and_a_room(tmp_path: Path) -> None:
    words = ["method=dense", "model=resnet20", "model.depth=8", "dataset=digits", "debug=fast", "tracking=off"]
    found = paredown.run(
        *words, f"output={tmp_path}", "latency.seconds=0.02", "trainer.progress=false", "recipe.epochs=1"
    )
    assert found.metrics["final/top1"] > 5 and paredown.run.walk.run is not None


def test_importing_the_package_is_quick() -> None:
    code = "import sys, paredown; print(sorted({'torch', 'hydra', 'omegaconf', 'pydantic', 'numpy'} & {*sys.modules}))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
    assert set(paredown.__all__) <= set(dir(paredown)) and all(getattr(paredown, name) for name in paredown.__all__)
    with pytest.raises(AttributeError, match="no attribute 'compres'"):
        _ = paredown.compres


@pytest.mark.parametrize("module", ["compression", "networks", "experiment"])
def test_the_docstrings_run(module: str) -> None:
    found = doctest.testmod(importlib.import_module(f"paredown.api.{module}"))
    assert found.attempted and not found.failed
