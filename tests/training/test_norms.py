"""Batch-norm statistics over training images: their values, which layers, the warning, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context, FitState, Hooks
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.data.datasets.digits import Digits
from paredown.experiment.prepare import prepare
from paredown.run.walk import carry_out
from paredown.training.fit import fit
from paredown.training.machine import Machine
from paredown.training.module import Row
from paredown.training.norms import recompute

RESNET8 = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "num_classes": 10, "in_channels": 1}
SLOW = 0.01  # the momentum of TensorFlow's EfficientNets
MACHINE = Machine(accelerator="cpu", checkpoint_seconds=0, progress=False)


@identity("test/frozen")
@dataclass
class Frozen(Hooks):
    """Freezes the first batch norm."""

    def start(self, fit: FitState) -> None:
        norms(fit.model)[0].eval()


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def train(
    data: Digits, folder: Path, recipe: Recipe, *hooks: Hooks, momentum: float = SLOW, stop_after: int | None = None
) -> tuple[Network, Row]:
    def report(epoch: int, row: Row) -> None:
        if epoch == stop_after:
            raise KeyboardInterrupt

    torch.manual_seed(0)
    folder.mkdir(exist_ok=True)
    network = blueprint.create(RESNET8, (1, 8, 8))
    for norm in norms(network.module):
        norm.momentum = momentum
    stage = Fit("train", recipe, hooks)
    rows = fit(network, stage, Context(data, torch.device("cpu"), 7), MACHINE, folder, report)
    return network, rows[-1]


def test_statistics_are_the_means_over_batches_and_every_mode_stays() -> None:
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=0.3), nn.Dropout(0.5)).eval()
    batches = [torch.randn(4, 1, 6, 6) + number for number in range(3)]
    recompute([network[1]], network, [(images, torch.zeros(4)) for images in batches])
    maps: list[Tensor] = [network[0](images).transpose(0, 1).flatten(1) for images in batches]
    torch.testing.assert_close(network[1].running_mean, torch.stack([each.mean(1) for each in maps]).mean(0))
    torch.testing.assert_close(network[1].running_var, torch.stack([each.var(1) for each in maps]).mean(0))
    assert network[1].momentum == 0.3
    assert not any(layer.training for layer in network.modules())


def test_a_short_training_of_a_slow_norm_is_evaluated_with_its_own_statistics(data: Digits, tmp_path: Path) -> None:
    recipe = Recipe(epochs=8, batch_size=32, learning_rate=0.05)
    _, behind = train(data, tmp_path / "a", recipe)
    network, row = train(data, tmp_path / "b", replace(recipe, norm_images=600))
    assert row["train/loss"] == behind["train/loss"]  # the training itself is the same
    assert row["val/top1"] > behind["val/top1"] + 20
    kept = [norm.running_mean.clone() for norm in norms(network.module)]
    recompute(norms(network.module.eval()), network.module, data.chosen_loader("train", 32, 7, "cpu", images=600))
    for norm, mean in zip(norms(network.module), kept, strict=True):
        torch.testing.assert_close(norm.running_mean, mean)
        assert norm.momentum == SLOW


def test_a_killed_training_goes_on_with_the_same_statistics(data: Digits, tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch_size=64, norm_images=100)
    whole, row = train(data, tmp_path / "whole", recipe)
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "killed", recipe, stop_after=1)
    resumed, again = train(data, tmp_path / "killed", recipe)
    assert {name: value for name, value in row.items() if name != "seconds"} == {
        name: value for name, value in again.items() if name != "seconds"
    }
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, resumed.module.state_dict()[name]), name


def test_a_norm_that_a_hook_froze_keeps_its_statistics(data: Digits, tmp_path: Path) -> None:
    network, _ = train(data, tmp_path, Recipe(epochs=1, batch_size=64, norm_images=100), Frozen())
    first, *others = norms(network.module)
    assert torch.equal(first.running_mean, torch.zeros(16))
    assert all(norm.running_mean.abs().sum() > 0 for norm in others)


@pytest.mark.parametrize(
    ("momentum", "images", "warned"), [(SLOW, 0, True), (SLOW, 100, False), (0.1, 0, False), (None, 0, False)]
)
def test_a_warning_says_what_to_add(
    data: Digits, tmp_path: Path, caplog: pytest.LogCaptureFixture, momentum: float, images: int, warned: bool
) -> None:
    train(data, tmp_path, Recipe(epochs=1, batch_size=64, norm_images=images), momentum=momentum)
    assert ("average over about 100 batches" in caplog.text and "recipe.norm_images=2000" in caplog.text) == warned


def test_one_image_has_no_variance() -> None:
    with pytest.raises(UserError, match=r"recipe.norm_images=1 \(0, or at least 2\)"):
        Recipe(epochs=1, norm_images=1)


def test_the_images_are_a_part_of_the_price(tmp_path: Path) -> None:
    words = ["dataset=digits", "dataset.fraction=0.1", "model=resnet20", "model.depth=8", "recipe.epochs=2"]
    words += ["recipe.norm_images=100", "recipe.precision=32", "latency.seconds=0", f"output={tmp_path}"]
    experiment = prepare(compose([*words, "tracking=off", "trainer.progress=false", "trainer.accelerator=cpu"]))
    metrics = carry_out(experiment).metrics
    assert metrics["price/other_images"] == min(100, experiment.data.sizes["train"]) * 2
    trained = 3 * metrics["price/images"] + metrics["price/other_images"]
    assert metrics["price/macs"] == trained * metrics["cost/macs"]


class Numbered(nn.BatchNorm2d):
    """A batch norm whose code wants a number for the momentum, as those of other libraries do."""

    def forward(self, images: Tensor) -> Tensor:
        tensors = (self.running_mean, self.running_var, self.weight, self.bias)
        return nn.functional.batch_norm(images, *tensors, self.training, 0.0 + self.momentum, self.eps)


def test_norms_of_other_code_get_the_same_means() -> None:
    plain, other = nn.BatchNorm2d(3, momentum=0.3), Numbered(3, momentum=0.3)
    batches = [(torch.randn(4, 3, 6, 6) + number, torch.zeros(4)) for number in range(3)]
    for norm in (plain.eval(), other.eval()):
        recompute([norm], norm, batches)
    torch.testing.assert_close(other.running_mean, plain.running_mean)
    torch.testing.assert_close(other.running_var, plain.running_var)
    assert other.momentum == 0.3
