"""Distillation: its losses written out, what they train, when they stop, and which epoch is kept."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.hooks import Context, FitState, Hooks
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.data.datasets.digits import Digits
from paredown.data.loaders import TrainLoader
from paredown.layers.factorised.pair import decompose
from paredown.surgery.synthesise import Synthesis, SyntheticImages
from paredown.training.evaluate import evaluate
from paredown.training.fit import CHECKPOINT, fit
from paredown.training.hooks.distillation import Distillation, frozen, image_store, layer_errors, plateau, soft_loss
from paredown.training.machine import Machine
from paredown.training.module import FitModule

HOW = Synthesis(batch_size=4)
CPU = torch.device("cpu")
MACHINE = Machine(accelerator="cpu", checkpoint_seconds=0, progress=False)


def context(shared: Path | None, teacher: nn.Module | None = None) -> Context:
    def earlier(name: str | None) -> Network:
        assert name == "train" and teacher is not None
        return Network(copy.deepcopy(teacher), {}, (3, 6, 6))

    return Context(SimpleNamespace(input_shape=(3, 6, 6)), CPU, 0, shared, earlier)


def at(module: nn.Module, shared: Path | None = None, teacher: nn.Module | None = None) -> FitState:
    return FitState(module, context(shared, teacher), Recipe(1))


def networks() -> tuple[nn.Sequential, nn.Sequential]:
    """A dense network, and the same decomposed at rank 2."""
    torch.manual_seed(0)
    dense = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    )
    student = copy.deepcopy(dense)
    for index in (0, 3):
        student[index] = decompose(dense[index], "in_group", 1, 2)
    return dense, student


def fill(dense: nn.Module, shared: Path) -> None:
    store = image_store(dense.eval(), context(shared), HOW)
    for number in range(2):
        store.write(number, torch.randn(4, 3, 6, 6), torch.randint(5, (4,)), [0.0])


def test_the_teacher_is_frozen() -> None:
    dense, _ = networks()
    made = frozen(dense)
    assert not any(p.requires_grad for p in made.parameters()) and not any(m.training for m in made.modules())


@pytest.mark.parametrize("setup", ["synthetic", "few_sample"])
def test_the_loss_and_its_gradient_written_out(setup, tmp_path) -> None:
    dense, module = networks()
    fill(dense, tmp_path)
    hook = Distillation(setup, 8, 10, HOW, "train")
    hook.start(at(module, tmp_path, dense))
    x, labels = torch.randn(6, 3, 6, 6), torch.randint(5, (6,))
    logits = module(x)
    cross_entropy = nn.functional.cross_entropy(logits, labels)
    loss = hook.loss(at(module), x, logits, cross_entropy)
    loss.backward()
    with torch.no_grad():
        first = dense[0](x)
        wanted = dense(x)
        second = dense[3](dense[2](dense[1](first)))
    twin = copy.deepcopy(module)
    for part in twin.modules():
        part._forward_hooks.clear()
    twin.zero_grad()
    ours = [twin[0](x)]
    ours.append(twin[3](twin[2](twin[1](ours[0]))))
    expected = (ours[0] - first).square().mean() + (ours[1] - second).square().mean()
    if setup == "few_sample":
        out = twin[6](twin[5](twin[4](ours[1])))
        soft, target = (out / 6).softmax(1), (wanted / 6).softmax(1)
        divergence = (target * (target.log() - soft.log())).sum(1).mean()
        expected = expected + 0.95 * 36 * divergence + 0.05 * nn.functional.cross_entropy(out, labels)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    expected.backward()
    for (name, own), other in zip(module.named_parameters(), twin.parameters(), strict=True):
        if own.grad is not None:
            assert torch.allclose(own.grad, other.grad, atol=1e-5), name
    trained = {name for name, p in module.named_parameters() if p.requires_grad}
    low_rank = {
        name for name in dict(module.named_parameters()) if name.startswith(("0.", "3.")) and name.endswith("weight")
    }
    assert (trained == low_rank) == (setup == "synthetic") and module[1].training == (setup == "few_sample")


def test_losses_of_equal_outputs_are_nothing() -> None:
    outputs = {"a": torch.randn(2, 3), "b": torch.randn(2, 5)}
    assert float(layer_errors(outputs, outputs)) == 0
    assert float(soft_loss(outputs["b"], outputs["b"] + 3, 6.0)) == pytest.approx(
        0, abs=1e-6
    )  # a shift changes no softmax


def test_two_plateaus_end_it() -> None:
    assert plateau([], 3) == 1 and plateau([50, 49, 48], 3) == 1 and plateau([50, 49, 48, 50], 3) == 0.1
    assert plateau([50, 49, 48, 47, 51, 50, 51], 3) == 0.1  # a new best begins anew
    assert plateau([50, 49, 48, 47, 46, 45, 44], 3) == 0
    assert plateau([50, *[49] * 19], 10) == 0.1 and plateau([50, *[49] * 20], 10) == 0


def test_the_images_come_each_once_and_in_the_same_order_again() -> None:
    images = torch.randn(11, 3, 2, 2)
    hook = Distillation("synthetic", 11, 10, HOW)
    hook._synthetic = SyntheticImages(list(images), torch.arange(11))

    def place(rank: int, world: int) -> TrainLoader:
        return hook.loader(None, 4, 7, device=CPU, rank=rank, world=world)

    loader = place(0, 1)
    for batch, labels in loader:
        assert torch.equal(batch, images[labels])
    first = [labels.tolist() for _, labels in loader]
    assert sorted(chain(*first)) == list(range(11)) and len(first) == len(loader) == 3
    assert first == [labels.tolist() for _, labels in loader]
    halves = [place(rank, 2) for rank in (0, 1)]
    assert sorted(label for half in halves for _, labels in half for label in labels.tolist()) == list(range(11))
    loader.set_epoch(1)
    assert first != [labels.tolist() for _, labels in loader]


def test_an_epoch_has_the_images_that_it_says(data: Digits) -> None:
    few, whole = Distillation("few_sample", 20, 10, HOW), Distillation("full", None, 10, HOW)
    few._synthetic = whole._synthetic = None  # as `start` leaves them
    assert few.images_per_epoch(data) == sum(len(labels) for _, labels in few.loader(data, 7, 0, device=CPU)) == 20
    assert Distillation("synthetic", 11, 10, HOW).images_per_epoch(data) == 11  # as the test above counted
    assert whole.images_per_epoch(data) is whole.loader(data, 7, 0, device=CPU) is None


def test_without_a_store_there_is_no_place_for_images() -> None:
    with pytest.raises(UserError, match="need a store"):
        image_store(nn.Linear(1, 1), context(None), HOW)


@identity("test/best")
@dataclass
class Best(Hooks):
    """Keeps the best epoch and ends after a second without a rise."""

    keeps_best: bool = True

    def rate(self, history, within=0.0):
        return plateau([row["val/top1"] for row in history], 1)


RESNET = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "num_classes": 10, "in_channels": 1}


@pytest.fixture(scope="module")
def trained(data: Digits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = blueprint.create(RESNET, (1, 8, 8))
    folder = tmp_path_factory.mktemp("trained")
    fit(
        network,
        Fit("train", Recipe(3, batch_size=32)),
        Context(data, torch.device("cpu"), 7),
        MACHINE,
        folder,
        lambda epoch, row: None,
    )
    blueprint.save(network, folder)
    return folder


@pytest.mark.parametrize("killed_after", [None, 0, 1])
def test_a_distillation_that_only_harms_ends_with_what_it_began_with(
    data: Digits, trained: Path, tmp_path: Path, killed_after: int | None
) -> None:
    def distil(killed_after: int | None) -> tuple[Network, list[dict[str, float]]]:
        def report(epoch: int, row: dict[str, float]) -> None:
            if epoch == killed_after:
                raise KeyboardInterrupt

        network = blueprint.read(trained)
        stage = Fit("distil", Recipe(3, learning_rate=100.0), (Distillation("full", None, 10, HOW),))
        return network, fit(network, stage, Context(data, torch.device("cpu"), 7), MACHINE, tmp_path, report)

    if killed_after is not None:
        with pytest.raises(KeyboardInterrupt):
            distil(killed_after)
        assert (tmp_path / CHECKPOINT).is_file() == (killed_after > 0)
    network, rows = distil(None)
    before = blueprint.read(trained).module
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in network.module.state_dict().items())
    loader = data.eval_loader("val", 256, "cpu")
    expected = {f"kept/val/{name}": pytest.approx(value) for name, value in evaluate(before, loader, CPU).items()}
    for row in rows:
        assert row["val/top1"] < row["kept/val/top1"] and {name: row[name] for name in expected} == expected


def test_the_images_that_judge_are_those_of_best_on(trained: Path, tmp_path: Path) -> None:
    """With none held out, as published: on those that the accuracy is reported on."""
    every = Digits(name="digits", mean=[0.3053], std=[0.3763], fraction=0.2, validation=0, cache=str(tmp_path))
    hook = Distillation("full", None, 10, HOW, best_on="test")
    assert hook.rate([{"val/top1": float(epoch), "test/top1": 50.0} for epoch in range(11)]) == 0.1
    network = blueprint.read(trained)
    stage, context = Fit("distil", Recipe(2, learning_rate=100.0), (hook,)), Context(every, CPU, 7)
    rows = fit(network, stage, context, MACHINE, tmp_path, lambda epoch, row: None)
    before = blueprint.read(trained).module.state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.module.state_dict().items())
    assert rows[-1]["kept/test/top1"] > rows[-1]["test/top1"] and "kept/val/top1" not in rows[-1]


def test_the_best_epochs_weights_are_kept_and_the_rate_falls() -> None:
    network = nn.Linear(1, 1)
    recipe = replace(Recipe(epochs=9), schedule="constant")
    module = FitModule(FitState(network, context(None), recipe), [Best()], ["val"])
    rates, weights = [], []
    for epoch, top1 in enumerate([50.0, 60.0, 55.0, 58.0]):
        rates.append(module._given_rate())
        network.weight.data.fill_(epoch)
        module._keep_if_best({"val/top1": top1})
        module.history.append({"val/top1": top1})
        weights.append(float(module._best["weight"]))
    assert (rates, weights, module._given_rate()) == ([1.0, 1.0, 1.0, 0.1], [0, 1, 1, 1], 0)
    checkpoint: dict = {}
    module.on_save_checkpoint(checkpoint)
    module._best, module._kept = {}, {}
    module.on_load_checkpoint(checkpoint)
    module.on_train_end()
    assert float(network.weight) == 1 and module._kept == {"val/top1": 60} and len(module.history) == 4
