"""What a hook remembers: through the checkpoint, in one way, for every hook that needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from paredown.core import blueprint
from paredown.core.hooks import Context, FitState, Hooks
from paredown.core.keys import identity
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.data.datasets.digits import Digits
from paredown.training.fit import fit
from paredown.training.machine import Machine
from paredown.training.module import Row

RESNET8 = {
    "_target_": "paredown.models.cifar.resnet.cifar_resnet",
    "depth": 8,
    "num_classes": 10,
    "in_channels": 1,
}
MACHINE = Machine(accelerator="cpu", checkpoint_seconds=0, progress=False)


@identity("test/memory")
@dataclass
class Memory(Hooks):
    """Adds up a tensor and a number over the epochs, and starts a fit of its own each time."""

    step: float = 1.0

    def start(self, fit: FitState) -> None:
        assert not hasattr(self, "total")  # a fit runs on a copy: nothing of an earlier one is left
        self.total, self.vector = 0.0, torch.zeros(2)

    def after_epoch(self, fit: FitState) -> dict[str, float]:
        self.total += self.step
        self.vector += torch.tensor([1.0, float(fit.epoch)])
        return {"memory/total": self.total, "memory/vector": float(self.vector[1])}

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "vector": self.vector}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.total, self.vector = state["total"], state["vector"]


def train(
    data: Digits, folder: Path, hooks: tuple[Hooks, ...], stop_after: int | None = None
) -> list[dict[str, float]]:
    def report(epoch: int, row: Row) -> None:
        if epoch == stop_after:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    network = blueprint.create(RESNET8, (1, 8, 8))
    stage = Fit("train", Recipe(epochs=4, batch_size=64), hooks)
    return fit(network, stage, Context(data, torch.device("cpu"), 7), MACHINE, folder, report)


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_a_killed_fit_remembers(data: Digits, tmp_path: Path, stop_after: int) -> None:
    hooks = (Memory(), Memory(step=10.0))  # two of one kind keep theirs apart; the last one's figures are logged
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, hooks, stop_after)
    rows = train(data, tmp_path, hooks)
    assert [row["memory/total"] for row in rows] == [10, 20, 30, 40]
    assert [row["memory/vector"] for row in rows] == [0, 1, 3, 6]
    assert vars(hooks[0]) == {"step": 1.0}


def test_a_hook_that_is_no_part_of_a_key_may_come_and_go(data: Digits, tmp_path: Path) -> None:
    @identity("test/how", counts=False)
    @dataclass
    class How(Hooks):
        """Computes the same in another way."""

        def state_dict(self) -> dict[str, Any]:
            raise AssertionError("another command may resume this fit without it")

    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path, (How(), Memory()), stop_after=1)
    rows = train(data, tmp_path, (Memory(),))  # the same key, as with method.packed=false
    assert [row["memory/total"] for row in rows] == [1, 2, 3, 4]


def test_the_state_of_a_running_fit_is_told(data: Digits, tmp_path: Path) -> None:
    seen: list[tuple[int, int, int, float]] = []

    @identity("test/seer")
    @dataclass
    class Seer(Hooks):
        """Notes what it is shown."""

        def penalties(self, fit: FitState) -> dict[str, Tensor]:
            seen.append((fit.epoch, fit.step, fit.step_in_epoch, fit.progress))
            return {}

        def after_step(self, fit: FitState) -> None:
            assert all(parameter.grad is not None for parameter in fit.model.parameters())
            assert fit.optimizer.state and fit.context.data is data

    train(data, tmp_path, (Seer(),))
    steps = len(data.train_loader(64, 0, torch.device("cpu")))
    assert len(seen) == 4 * steps
    assert seen == [(n // steps, n, n % steps, n // steps / 4) for n in range(4 * steps)]


def test_gradients_may_be_replaced_before_they_are_clipped(data: Digits, tmp_path: Path) -> None:
    norms: list[float] = []

    @identity("test/replacer")
    @dataclass
    class Replacer(Hooks):
        """Sets every gradient to ones, and reads their norm after the step, when they were clipped."""

        def after_backward(self, fit: FitState) -> None:
            for parameter in fit.model.parameters():
                assert parameter.grad is not None
                parameter.grad.fill_(1.0)

        def after_step(self, fit: FitState) -> None:
            gradients = [parameter.grad for parameter in fit.model.parameters() if parameter.grad is not None]
            norms.append(float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))))

    torch.manual_seed(0)
    network = blueprint.create(RESNET8, (1, 8, 8))
    stage = Fit("train", Recipe(epochs=1, batch_size=128, clip_norm=0.5), (Replacer(),))
    fit(network, stage, Context(data, torch.device("cpu"), 7), MACHINE, tmp_path, lambda epoch, row: None)
    assert norms == pytest.approx([0.5] * len(norms), rel=1e-4)


def test_what_acts_before_the_evaluation_is_evaluated(data: Digits, tmp_path: Path) -> None:
    @identity("test/zeroer")
    @dataclass
    class Zeroer(Hooks):
        """Zeroes the classifier after each epoch's last step."""

        def before_evaluation(self, fit: FitState) -> None:
            classifier = [layer for layer in fit.model.modules() if isinstance(layer, torch.nn.Linear)][-1]
            classifier.weight.data.zero_()
            classifier.bias.data.zero_()

    rows = train(data, tmp_path, (Zeroer(),))
    assert [row["test/loss"] for row in rows] == pytest.approx([float(torch.log(torch.tensor(10.0)))] * 4)
