"""fp16 with a loss scaler, on the CPU: hooks see gradients as fp32 has them, and a step that overflows is left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn

from paredown.core.hooks import Context, FitState, Hooks
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.data.datasets.digits import Digits
from paredown.training.fit import fit
from paredown.training.machine import Machine

RECIPE = Recipe(epochs=8, batch_size=64, learning_rate=0.05, clip_norm=0.5)
SCALE = 2.0**12
OVERFLOW = 2.0**30  # times the loss: above fp16's largest number, 65,504


@identity("test_seen_gradients", counts=False)
@dataclass
class Seen(Hooks):
    """Keeps the norms of the gradients before they are clipped, and the weights after each step."""

    norms: list[float] = field(default_factory=list)
    weights: list[torch.Tensor] = field(default_factory=list)

    def after_backward(self, fit: FitState) -> None:
        grads = [one.grad.flatten() for one in fit.model.parameters() if one.grad is not None]
        self.norms.append(float(torch.cat(grads).norm()))

    def after_step(self, fit: FitState) -> None:
        self.weights.append(next(fit.model.parameters()).detach().clone())


def train(folder: Path, monkeypatch: pytest.MonkeyPatch, scale: float | None) -> Seen:
    """Train under fp16 with a scaler that begins at `scale`, in fp32 for None. The trainer itself takes fp16 on a GPU
    alone."""
    data = Digits(name="digits", mean=[0.3053], std=[0.3763], fraction=0.2, cache=str(folder / "cache"))
    data.prepare()
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    seen = Seen()
    with monkeypatch.context() as patched:
        if scale is not None:
            plugin = MixedPrecision("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=scale))
            patched.setattr(pl, "Trainer", partial(scaled_trainer, pl.Trainer, plugin))
        stage, context = Fit("train", RECIPE, (seen,)), Context(data, torch.device("cpu"), 7)
        network = Network(module, {}, (1, 8, 8))
        fit(network, stage, context, Machine(accelerator="cpu", progress=False), folder, lambda epoch, row: None)
    return seen


def scaled_trainer(trainer: type[pl.Trainer], plugin: MixedPrecision, **how: Any) -> pl.Trainer:
    return trainer(**(how | {"precision": None, "plugins": [*how["plugins"], plugin]}))


def test_hooks_see_unscaled_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (half, single) = (train(tmp_path / str(scale), monkeypatch, scale) for scale in (SCALE, None))
    assert len(half.norms) == len(single.norms) > 2
    assert half.norms[0] == pytest.approx(single.norms[0], rel=0.02) and half.norms[0] != single.norms[0]
    assert torch.allclose(half.weights[0], single.weights[0], atol=1e-3)  # one step of length 0.05 * 0.5


def test_a_step_that_overflows_changes_no_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = train(tmp_path, monkeypatch, OVERFLOW)
    assert torch.equal(seen.weights[0], seen.weights[1])  # halving the scale takes several steps
    assert not torch.equal(seen.weights[-1], seen.weights[0])
