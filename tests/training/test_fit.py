"""A fit on real images: it learns, resumes bit-equal, and its hooks are called."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from paredown.core import blueprint
from paredown.core.hooks import Context, FitState, Hooks
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.data.datasets.digits import Digits
from paredown.training.fit import CHECKPOINT, fit
from paredown.training.machine import Machine
from paredown.training.module import LOOK, Row

ARCHITECTURE = {
    "_target_": "paredown.models.cifar.resnet.cifar_resnet",
    "depth": 8,
    "num_classes": 10,
    "in_channels": 1,
}
RECIPE = Recipe(epochs=4, batch_size=32, learning_rate=0.05)
MACHINE = Machine(accelerator="cpu", checkpoint_seconds=0, progress=False)


def start() -> Network:
    torch.manual_seed(0)
    return blueprint.create(ARCHITECTURE, (1, 8, 8))


def train(
    data: Digits, folder: Path, stop_after: int | None = None, stage: Fit | None = None
) -> tuple[Network, list[Row]]:
    def report(epoch: int, row: Row) -> None:
        if epoch == stop_after:
            raise KeyboardInterrupt

    network = start()
    folder.mkdir(exist_ok=True)
    return network, fit(
        network, stage or Fit("train", RECIPE), Context(data, torch.device("cpu"), 7), MACHINE, folder, report
    )


def test_it_learns_and_every_epoch_has_its_figures(data: Digits, tmp_path: Path) -> None:
    _, rows = train(data, tmp_path)
    assert len(rows) == 4 and rows[-1]["train/loss"] < rows[0]["train/loss"]
    names = {f"{split}/{name}" for split in ("train", "val", "test") for name in ("loss", "top1", "top5")}
    assert names | {"learning_rate", "seconds"} == set(rows[0])
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.05, 0.05, 0.005, 0.0005])
    assert rows[-1]["test/top1"] > 40  # ten classes


def test_a_training_that_diverged_is_told_within_its_epoch(data: Digits, tmp_path: Path) -> None:
    steps: list[float] = []
    wild = replace(RECIPE, learning_rate=1e30, batch_size=2, epochs=1)
    with pytest.raises(FloatingPointError, match=r"training diverged: .* in epoch 1"):
        train(data, tmp_path, stage=Fit("train", wild, (Rates(steps),)))
    assert len(steps) == LOOK < data.sizes["train"] // 2


@identity("test/rates")
@dataclass(frozen=True)
class Rates(Hooks):
    """Keeps the learning rate of every step."""

    seen: list[float]

    def after_step(self, fit: FitState) -> None:
        """Keep it."""
        self.seen.append(fit.optimizer.param_groups[0]["lr"])


def test_one_cycle_moves_the_learning_rate_with_every_step(data: Digits, tmp_path: Path) -> None:
    seen: list[float] = []
    recipe = replace(RECIPE, epochs=2, schedule="one_cycle", warmup=0.25)
    train(data, tmp_path, stage=Fit("train", recipe, (Rates(seen),)))
    steps = len(seen)
    peak = steps / 4
    wanted = [0.05 * min(step / peak, (steps - step) / (steps - peak)) for step in range(steps)]
    assert steps > 10 and seen == pytest.approx(wanted)


def test_a_network_from_the_store_trains_its_batch_norm(data: Digits, tmp_path: Path) -> None:
    network = start()
    blueprint.save(network, tmp_path)
    network = blueprint.read(tmp_path)
    assert not network.module.training
    before = network.module.get_buffer("bn.running_mean").clone()
    fit(
        network, Fit("train", RECIPE), Context(data, torch.device("cpu"), 7), MACHINE, tmp_path, lambda epoch, row: None
    )
    assert not torch.equal(network.module.get_buffer("bn.running_mean"), before)


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_resumed_fit_ends_bit_equal(data: Digits, tmp_path: Path, stop_after: int) -> None:
    whole, rows = train(data, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "cut", stop_after)
    assert (tmp_path / "cut" / CHECKPOINT).is_file()
    resumed, again = train(data, tmp_path / "cut")
    theirs = whole.module.state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in resumed.module.state_dict().items())
    strip = [{name: value for name, value in row.items() if name != "seconds"} for row in rows]
    assert [{name: value for name, value in row.items() if name != "seconds"} for row in again] == strip


CALLS: list[str] = []


@identity("test/recorder")
@dataclass(frozen=True)
class Recorder(Hooks):
    """Counts its calls and adds a penalty of known size."""

    size: float = 0.5

    def penalties(self, fit: FitState) -> dict[str, Tensor]:
        CALLS.append(f"penalty at {fit.progress}")
        return {"known": torch.tensor(self.size)}

    def before_step(self, fit: FitState) -> None:
        CALLS.append(f"before {fit.step}")

    def after_backward(self, fit: FitState) -> None:
        assert next(fit.model.parameters()).grad is not None
        CALLS.append(f"backward {fit.step}")

    def after_step(self, fit: FitState) -> None:
        assert isinstance(fit.optimizer, torch.optim.SGD)
        CALLS.append(f"after {fit.step}")

    def before_evaluation(self, fit: FitState) -> None:
        CALLS.append(f"evaluation {fit.epoch}")

    def after_epoch(self, fit: FitState) -> dict[str, float]:
        return {"epoch": float(fit.epoch)}


def test_hooks_act_around_every_step(data: Digits, tmp_path: Path) -> None:
    CALLS.clear()
    _, rows = train(data, tmp_path, stage=Fit("train", Recipe(epochs=2, batch_size=64), (Recorder(),)))
    steps = len(data.train_loader(64, 0, torch.device("cpu"))) * 2
    assert CALLS[:4] == ["before 0", "penalty at 0.0", "backward 0", "after 0"]
    assert [call for call in CALLS if call.startswith("after")] == [f"after {step}" for step in range(steps)]
    assert CALLS[-4] == "penalty at 0.5" and CALLS[-1] == "evaluation 1" and CALLS.count("evaluation 0") == 1
    assert [row["penalty/known"] for row in rows] == [0.5, 0.5] and rows[1]["epoch"] == 1


def test_a_loss_that_is_not_finite_ends_the_fit(data: Digits, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match=r"penalty/known.* in epoch 1"):
        train(data, tmp_path, stage=Fit("train", Recipe(epochs=2), (Recorder(float("nan")),)))


@pytest.mark.parametrize("damage", ["cut short", "a flipped bit", "empty"])
def test_a_damaged_checkpoint_is_a_warning_and_that_fit_starts_again(
    damage: str, data: Digits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = Fit("train", replace(RECIPE, epochs=2))
    whole, _ = train(data, tmp_path / "whole", stage=short)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "cut", stop_after=1, stage=short)
    checkpoint = tmp_path / "cut" / CHECKPOINT
    content = checkpoint.read_bytes()
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 4]) + content[half + 1 :]
    checkpoint.write_bytes({"cut short": content[:half], "a flipped bit": flipped, "empty": b""}[damage])
    caplog.set_level("WARNING", "paredown")
    again, more = train(data, tmp_path / "cut", stage=short)
    assert f"the checkpoint of train is damaged, so that fit starts again: {checkpoint}" in caplog.text
    assert len(more) == 2 and blueprint.fingerprint(again.module) == blueprint.fingerprint(whole.module)
