"""Training steps on a device that is not there: what is mixed between devices is found, and nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from paredown.conformance.fake_device import followed
from paredown.core.hooks import Context, FitState, Hooks
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.data.datasets.digits import Digits
from paredown.training.fit import fit
from paredown.training.machine import Machine

RECIPE = Recipe(epochs=1, batch_size=64, learning_rate=0.05)


@pytest.fixture
def data(tmp_path: Path) -> Digits:
    return Digits(name="digits", mean=[0.3053], std=[0.3763], fraction=0.1, cache=str(tmp_path / "cache"))


@identity("test_scaled_loss", counts=False)
@dataclass
class Scaled(Hooks):
    """The loss times a tensor that is made at the start, on the CPU; `kept` says which."""

    kept: str

    def start(self, fit: FitState) -> None:
        parameter = next(fit.model.parameters())
        buffer = next(fit.model.buffers())
        made = {"parameter": parameter, "buffer": buffer, "tensor": torch.ones(parameter.shape[0])}
        self.tensor = made.get(self.kept, torch.ones(()))

    def loss(self, fit: FitState, images: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        if self.kept == "values":
            return loss * float(logits.mean() > 0)
        with torch.autocast(logits.device.type, enabled=False):
            return loss + 0 * (self.tensor.detach().view(len(self.tensor), -1)[:, 0] * logits.mean(0)).sum()


def train(folder: Path, data: Digits, *hooks: Hooks) -> Tensor:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10))
    network = Network(module, {}, (1, 8, 8))
    folder.mkdir()
    machine = Machine(accelerator="cpu", checkpoint_seconds=1e9, progress=False)
    context = Context(data, torch.device("cpu"), 7)
    fit(network, Fit("train", RECIPE, hooks), context, machine, folder, lambda epoch, row: None)
    return module[1].weight.detach()


@pytest.mark.parametrize("kept", ["buffer", "tensor"])
def test_a_tensor_that_stays_on_the_cpu_is_found(kept: str, data: Digits, tmp_path: Path) -> None:
    with followed() as wrong:
        train(tmp_path / "fit", data, Scaled(kept))
    assert len(wrong) == 1 and "meta" in str(wrong[0]) and "cpu" in str(wrong[0])


@pytest.mark.parametrize("kept", ["parameter", "values"])
def test_a_parameter_is_moved_and_a_step_that_needs_values_is_right(kept: str, data: Digits, tmp_path: Path) -> None:
    with followed() as wrong:
        train(tmp_path / "fit", data, Scaled(kept))
    assert wrong == [None]


def test_the_training_is_what_it_is_without(data: Digits, tmp_path: Path) -> None:
    expected = train(tmp_path / "alone", data)
    with followed() as wrong:
        weight = train(tmp_path / "followed", data)
    assert torch.equal(weight, expected) and wrong == [None]
