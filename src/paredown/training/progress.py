"""The progress of a fit: its epochs, the batches of an epoch, images a second and the last epoch's figures."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch

from paredown.core import progress
from paredown.core.progress import Work
from paredown.training.module import FitModule

LOSS, TOP1 = "loss", "top-1 (%)"  # the panels of the curves
SAMPLE_SECONDS = 0.5  # between two looks at the loss of a batch, which wait for a GPU


class Progress(pl.callbacks.Checkpoint):
    """The works of a fit: its epochs, and within one its batches and evaluations; a `Checkpoint`, so that an epoch's
    row is there."""

    def __init__(self) -> None:
        self.epochs: Work | None = None
        self.epoch: Work | None = None
        self.evaluation: Work | None = None
        self.sampled = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: FitModule) -> None:  # type: ignore[override]
        """Enter the fit, at the epoch a resumed one goes on from, with the curves up to there."""
        done = trainer.current_epoch
        if done:
            progress.tell(f"goes on after epoch {done} of {module.recipe.epochs}")
        self.epochs = progress.begin(Work("training", module.recipe.epochs, "epochs", done=done))
        for number, row in enumerate(module.history, 1):
            self._point(number, row)

    def on_train_epoch_start(self, trainer: pl.Trainer, module: FitModule) -> None:  # type: ignore[override]
        """Enter the epoch."""
        batches = int(trainer.num_training_batches)
        self.epoch = progress.begin(Work(f"epoch {trainer.current_epoch + 1}", batches))

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: FitModule, outputs: Any, batch: Any, index: int
    ) -> None:
        """Count a batch of all ranks; look at its loss now and then."""
        if self.epochs is None or self.epoch is None or not self.epoch.total:
            return
        self.epoch.advance(1, len(batch[0]) * trainer.world_size)
        self.epochs.done = at = trainer.current_epoch + self.epoch.done / self.epoch.total
        if progress.heard() and time.monotonic() - self.sampled > SAMPLE_SECONDS:
            loss = float(outputs["loss"] if isinstance(outputs, dict) else torch.as_tensor(outputs))
            self.epoch.figures = f"loss {loss:.3f}"
            self.epochs.curves.setdefault(LOSS, {}).setdefault("batch", []).append((at, loss))
            self.sampled = time.monotonic()

    def on_validation_start(self, trainer: pl.Trainer, module: FitModule) -> None:  # type: ignore[override]
        """Enter the evaluation of an epoch, or of the network before the first."""
        total = trainer.num_sanity_val_batches if trainer.sanity_checking else trainer.num_val_batches
        self.evaluation = progress.begin(Work("evaluation", sum(map(int, total))))

    def on_validation_batch_end(  # type: ignore[override]
        self, trainer: pl.Trainer, module: FitModule, outputs: Any, batch: Any, index: int, dataloader_idx: int = 0
    ) -> None:
        """Count a batch of all ranks."""
        if self.evaluation is not None:
            self.evaluation.advance(1, len(batch[0]) * trainer.world_size)

    def on_validation_end(self, trainer: pl.Trainer, module: FitModule) -> None:  # type: ignore[override]
        """Leave the evaluation."""
        progress.ended(self.evaluation)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: FitModule) -> None:  # type: ignore[override]
        """Leave the epoch, and show its figures."""
        progress.ended(self.epoch)
        if self.epochs is None:
            return
        row, number = module.history[-1], trainer.current_epoch + 1
        split = (*module.splits, "train")[0]
        self.epochs.done = number
        self.epochs.figures = f"loss {row['train/loss']:.3f}  {split} {row[f'{split}/top1']:.2f} %"
        self._point(number, row)
        progress.tell(f"epoch {number}/{module.recipe.epochs}  {self.epochs.figures}  {row['seconds']:.1f} s")

    def on_train_end(self, trainer: pl.Trainer, module: FitModule) -> None:  # type: ignore[override]
        """Leave the fit."""
        progress.ended(self.epochs)

    def on_exception(self, trainer: pl.Trainer, module: FitModule, exception: BaseException) -> None:  # type: ignore[override]
        """Leave the fit."""
        progress.ended(self.epochs)

    def _point(self, number: int, row: dict[str, float]) -> None:
        """Add the figures of an epoch to the curves."""
        if self.epochs is None:
            return
        for name, value in row.items():
            split, _, figure = name.partition("/")
            panel = {"loss": LOSS, "top1": TOP1}.get(figure)
            if panel and split in ("train", "val", "test"):
                self.epochs.curves.setdefault(panel, {}).setdefault(split, []).append((number, value))
