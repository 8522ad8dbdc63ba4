"""What a fit says of itself: epochs, batches, images, evaluations and the curves, at every step of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paredown.core import blueprint, progress
from paredown.core.errors import UserError
from paredown.core.hooks import Context, FitState, Hooks
from paredown.core.keys import identity
from paredown.core.plan import Fit
from paredown.core.progress import Work
from paredown.core.recipe import Recipe
from paredown.data.datasets.digits import Digits
from paredown.training.fit import fit
from paredown.training.machine import Machine

ARCHITECTURE = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "num_classes": 10}
MACHINE = Machine(accelerator="cpu", checkpoint_seconds=0)


class Heard:
    """What was told, and the works that ended, with those that ran then."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.ended: list[tuple[Work, list[str]]] = []

    def tell(self, line: str) -> None:
        """Keep it."""
        self.told.append(line)

    def closing(self, work: Work) -> None:
        """Keep it."""
        self.ended.append((work, [one.name for one in progress.under_way()]))


def train(data: Digits, folder: Path, epochs: int = 2, hooks: tuple[Hooks, ...] = (), stop: int | None = None) -> None:
    def report(epoch: int, row: object) -> None:
        if epoch == stop:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    network = blueprint.create({**ARCHITECTURE, "in_channels": 1}, (1, 8, 8))
    stage = Fit("train", Recipe(epochs=epochs, batch_size=32, learning_rate=0.05), hooks)
    fit(network, stage, Context(data, torch.device("cpu"), 7), MACHINE, folder, report)


@pytest.fixture
def heard():
    listener = Heard()
    with progress.heard_by(listener):
        yield listener


def test_every_batch_image_and_epoch_is_counted(data: Digits, tmp_path: Path, heard: Heard) -> None:
    train(data, tmp_path)
    epochs = [work for work, _ in heard.ended if work.name.startswith("epoch ")]
    images = data.sizes["train"]
    assert [work.name for work in epochs] == ["epoch 1", "epoch 2"]
    assert all(work.done == work.total == -(-images // 32) and work.images == images for work in epochs)
    evaluated = [work for work, running in heard.ended if work.name == "evaluation" and running[0] == "training"]
    assert [work.images for work in evaluated] == [data.sizes["val"] + data.sizes["test"]] * 2
    whole = heard.ended[-1][0]
    assert (whole.name, whole.done, whole.total) == ("training", 2, 2)
    assert [line.split("  ")[0] for line in heard.told] == ["epoch 1/2", "epoch 2/2"]
    assert whole.figures in heard.told[-1] and "val " in whole.figures
    assert {name: [x for x, _ in points] for name, points in whole.curves["top-1 (%)"].items()} == {
        split: [1, 2] for split in ("train", "val", "test")
    }
    assert len(whole.curves["loss"]["batch"]) >= 1 and progress.under_way() == []


def test_a_resumed_fit_goes_on_with_its_curves(data: Digits, tmp_path: Path, heard: Heard) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, epochs=3, stop=1)
    assert progress.under_way() == []
    train(data, tmp_path, epochs=3)
    assert heard.told[-3] == "goes on after epoch 1 of 3"
    whole = heard.ended[-1][0]
    assert whole.before == 1 and [x for x, _ in whole.curves["loss"]["val"]] == [1, 2, 3]


@identity("test/breaks")
class Breaks(Hooks):
    """Fails in the second step."""

    def after_step(self, fit: FitState) -> None:
        """Fail."""
        if fit.step == 1:
            raise IndexError


def test_a_fit_that_fails_leaves_nothing_on_the_display(data: Digits, tmp_path: Path, heard: Heard) -> None:
    with pytest.raises(IndexError):
        train(data, tmp_path, hooks=(Breaks(),))
    assert progress.under_way() == [] and heard.ended


def test_true_and_false_are_modes_and_others_are_refused() -> None:
    assert Machine(progress=True).progress == "auto" and Machine(progress=False).progress == "off"  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"trainer\.progress='bar': known: auto, lines, off, plot"):
        Machine(progress="bar")  # type: ignore[arg-type]
