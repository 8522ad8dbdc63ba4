"""What Lightning reads of a data set: the loaders that the data set itself would give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from paredown.core.hooks import Hooks
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.data.datasets.digits import Digits
from paredown.training.batches import Batches

RECIPE = Recipe(epochs=2, batch_size=64, learning_rate=0.1)


class Recorder(LightningModule):
    """Notes the labels it is given, by epoch and loader."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.seen: dict[int, list[Tensor]] = {}
        self.evaluated: dict[int, int] = {}

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        self.seen.setdefault(self.current_epoch, []).append(labels)
        return nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int, dataloader_idx: int = 0) -> None:
        self.evaluated[dataloader_idx] = self.evaluated.get(dataloader_idx, 0) + len(batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def read(data: Digits, stage: Fit) -> Recorder:
    module = Recorder()
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0, "use_distributed_sampler": False}
    trainer = Trainer(max_epochs=stage.recipe.epochs, accelerator="cpu", **quiet)
    trainer.fit(module, datamodule=Batches(data, stage.recipe.batch_size, stage.hooks, seed=5, eval_batch_size=50))
    return module


def test_lightning_sets_the_epoch_and_reads_both_splits(data: Digits) -> None:
    module = read(data, Fit("train", RECIPE))
    loader = data.train_loader(64, 5, "cpu")
    for epoch in range(2):
        loader.set_epoch(epoch)
        assert torch.equal(torch.cat(module.seen[epoch]), torch.cat([labels for _, labels in loader]))
    assert module.evaluated == {0: data.sizes["val"] * 2, 1: data.sizes["test"] * 2}
    assert not torch.equal(torch.cat(module.seen[0]), torch.cat(module.seen[1]))


@dataclass(frozen=True)
class HeldOut(Hooks):
    """Trains on 30 validation images."""

    def loader(self, data: Any, batch_size: int, seed: int, **place: Any) -> Any:
        return data.chosen_loader("val", batch_size, seed, **place, images=30)


def test_what_the_first_hook_offers_is_trained_on(data: Digits) -> None:
    module = read(data, Fit("train", RECIPE, (Hooks(), HeldOut())))
    assert [sum(map(len, batches)) for batches in module.seen.values()] == [30, 30]
