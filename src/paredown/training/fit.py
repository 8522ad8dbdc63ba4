"""Run one `Fit`: a Lightning trainer around a network, resumed from its last checkpoint where there is one."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch

from paredown import distributed
from paredown.plan import Context, Fit, Network
from paredown.training.batches import Batches
from paredown.training.checkpoint import SafeCheckpointIO
from paredown.training.machine import Machine, device_of
from paredown.training.module import FitModule, Row
from paredown.training.progress import Progress

if TYPE_CHECKING:
    from paredown.data.images import ImageData

CHECKPOINT = "last.safetensors"
RAY = "ray"  # the strategy of ranks that Ray Train started
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def fit(
    network: Network,
    stage: Fit,
    data: ImageData,
    seed: int,
    machine: Machine,
    folder: Path,
    report: Callable[[int, Row], None],
    shared: Path | None = None,
) -> list[Row]:
    """Train `network` in place; returns one row of figures per epoch. `report(epoch, row)` is called on every rank;
    `shared` is the folder that hooks find in their context.

    `folder` holds the checkpoint: run again after a kill, it goes on there and ends bit-equal on the CPU.
    Raises KeyboardInterrupt for Ctrl-C, after Lightning has shut its workers down.
    """
    network.module.train()  # a state comes from the store in eval mode, and Lightning keeps the mode it is given
    for hook in stage.hooks:
        hook.start(network.module, Context(data, device_of(machine.accelerator), seed, shared))
    if stage.recipe.channels_last:
        network.module.to(memory_format=torch.channels_last)
    module = FitModule(network.module, stage, seed, data.eval_splits)
    batches = Batches(data, stage, seed, machine.eval_batch_size)
    checkpoint = folder / CHECKPOINT
    started = distributed.all_have(checkpoint)
    trainer = _trainer(
        stage,
        machine,
        [Keep(checkpoint, machine.checkpoint_seconds, report), Progress(stage.name, machine.progress)],
        evaluate_first=module.keeps_best and not started,
    )
    with quiet():
        try:
            trainer.fit(module, datamodule=batches, ckpt_path=checkpoint if started else None)
        except SystemExit as stopped:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from stopped
    network.module.to("cpu")
    return module.history


def _trainer(stage: Fit, machine: Machine, callbacks: list[pl.Callback], evaluate_first: bool) -> pl.Trainer:
    with quiet():
        return pl.Trainer(
            accelerator=machine.accelerator,
            devices=machine.devices,
            num_nodes=machine.nodes,
            strategy=_strategy(machine.strategy),
            sync_batchnorm=machine.sync_batchnorm,
            precision=PRECISIONS[stage.recipe.precision],  # type: ignore[arg-type]
            max_epochs=stage.recipe.epochs,
            gradient_clip_val=stage.recipe.clip_norm,
            plugins=[SafeCheckpointIO(), *_environment(machine.strategy)],
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=False,  # `Progress` shows ours
            enable_model_summary=False,
            use_distributed_sampler=False,  # our loaders shard themselves
            num_sanity_val_steps=-1 if evaluate_first else 0,  # -1: over all images
            benchmark=True,
        )


def _strategy(name: str) -> Any:
    if name != RAY:
        return name
    from ray.train.lightning import RayDDPStrategy

    return RayDDPStrategy()


def _environment(strategy: str) -> list[Any]:
    if strategy != RAY:
        return []
    from ray.train.lightning import RayLightningEnvironment

    return [RayLightningEnvironment()]


class Keep(pl.callbacks.Checkpoint):
    """At the end of an epoch: report its row, and write a checkpoint when the last one is old enough.

    A `Checkpoint`, because Lightning runs those after the module's own hook, which writes the row.
    """

    def __init__(self, path: Path, seconds: float, report: Callable[[int, Row], None]) -> None:
        self.path, self.seconds, self.report = path, seconds, report
        self.written = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: FitModule) -> None:  # type: ignore[override]
        """Report, then perhaps write; rank 0 decides, since clocks differ."""
        self.report(trainer.current_epoch, module.history[-1])
        due = trainer.strategy.broadcast(time.monotonic() - self.written >= self.seconds)
        if due and not trainer.should_stop and trainer.current_epoch + 1 < module.recipe.epochs:
            trainer.save_checkpoint(self.path)
            self.written = time.monotonic()


@contextmanager
def quiet() -> Iterator[None]:
    """Without Lightning's own notices: the command line says what matters in its own words."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch")
        yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
