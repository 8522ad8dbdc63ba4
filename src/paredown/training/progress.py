"""The progress of a fit: one bar over all its epochs at a terminal, one line an epoch elsewhere."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)

from paredown.training.module import FitModule


class Progress(pl.callbacks.Checkpoint):
    """Shows epochs done, time left and the last epoch's figures; a `Checkpoint` so that the row is written before."""

    def __init__(self, name: str, show: bool) -> None:
        self.name, self.show = name, show
        self.console = Console(stderr=True)
        self.bar: Bar | None = None

    def on_train_start(self, trainer: pl.Trainer, module: FitModule) -> None:  # type: ignore[override]
        """Open the bar, at the epoch a resumed fit goes on from."""
        self.show = self.show and trainer.is_global_zero
        epochs, done = module.recipe.epochs, trainer.current_epoch
        if self.show and done:
            self.console.print(f"{self.name}: going on after epoch {done} of {epochs}")
        if self.show and self.console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn("epochs"))
            more = (TimeRemainingColumn(), TextColumn("left"), TextColumn("{task.fields[figures]}"))
            self.bar = Bar(*columns, *more, console=self.console, transient=True)
            self.task = self.bar.add_task(self.name, total=epochs, completed=done, figures="")
            self.bar.start()
        self.moved = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, module: FitModule, *_: Any) -> None:  # type: ignore[override]
        """Move the bar within an epoch, at most four times a second."""
        if self.bar and time.monotonic() - self.moved > 0.25:
            within = trainer.fit_loop.epoch_loop.batch_progress.current.completed / trainer.num_training_batches
            self.bar.update(self.task, completed=round(trainer.current_epoch + within, 2))
            self.moved = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: FitModule) -> None:  # type: ignore[override]
        """Show the epoch's figures."""
        if not self.show:
            return
        row, split = module.history[-1], module.splits[0]
        figures = f"loss {row['train/loss']:.3f}  {split} {row[f'{split}/top1']:.2f} %"
        if self.bar:
            self.bar.update(self.task, completed=trainer.current_epoch + 1, figures=figures)
        else:
            self.console.print(
                f"{self.name} {trainer.current_epoch + 1}/{module.recipe.epochs}  {figures}  {row['seconds']:.1f} s"
            )

    def on_train_end(self, trainer: pl.Trainer, module: FitModule) -> None:  # type: ignore[override]
        """Close the bar."""
        if self.bar:
            self.bar.stop()

    def on_exception(self, trainer: pl.Trainer, module: FitModule, exception: BaseException) -> None:  # type: ignore[override]
        """Close the bar, so that what comes next is readable."""
        if self.bar:
            self.bar.stop()
