"""The training of one `Fit`: a Lightning trainer around a network, resumed from its last checkpoint."""

from __future__ import annotations

import copy
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from paredown.core import distributed
from paredown.core.errors import UserError
from paredown.core.hooks import Context, FitState
from paredown.core.network import Network
from paredown.core.plan import Fit
from paredown.core.recipe import Recipe
from paredown.layers.strided import subsampled
from paredown.training.batches import Batches
from paredown.training.bf16 import bf16_products
from paredown.training.checkpoint import SafeCheckpointIO, content
from paredown.training.machine import RAY, Machine
from paredown.training.module import FitModule, Row
from paredown.training.progress import Progress
from paredown.training.unused import has_unused

CHECKPOINT = "last.safetensors"
FINDING = "ddp_find_unused_parameters_true"  # Lightning's name
log = logging.getLogger("paredown")
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def fit(
    network: Network,
    stage: Fit,
    context: Context,
    machine: Machine,
    folder: Path,
    report: Callable[[int, Row], None],
) -> list[Row]:
    """Train `network` in place; return one row of figures per epoch. `report(epoch, row)` is called on every rank.

    `folder` holds the checkpoint: run again after a kill, the fit resumes from it and ends bit-equal on the CPU.
    Raise KeyboardInterrupt for Ctrl-C, after Lightning has shut its workers down.
    """
    unused = machine.ranks > 1 and has_unused(network)
    network.module.train()  # a state comes from the store in eval mode, and Lightning keeps the mode it is given
    hooks = [copy.copy(hook) for hook in stage.hooks]  # a hook may keep attributes while a fit runs
    state = FitState(network.module, context, stage.recipe)
    for hook in hooks:
        hook.start(state)
    if stage.recipe.channels_last:
        network.module.to(memory_format=torch.channels_last)
    module = FitModule(state, hooks, context.data.eval_splits)
    batches = Batches(context.data, stage.recipe.batch_size, hooks, context.seed, machine.eval_batch_size)
    checkpoint = folder / CHECKPOINT
    started = distributed.all_have(checkpoint) and _whole(checkpoint, stage.name)
    trainer = _trainer(
        stage,
        machine,
        [Keep(checkpoint, machine.checkpoint_seconds, report), Progress()],
        evaluate_first=module.best_on is not None and not started,
        unused=unused,
    )
    with quiet(), subsampled(network.module), _products(stage.recipe, context.device):
        try:
            trainer.fit(module, datamodule=batches, ckpt_path=checkpoint if started else None)
        except SystemExit as stopped:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from stopped
    distributed.require_equal(content(module.remembered()), f"what the hooks of {stage.name} remember")
    network.module.to("cpu")
    return module.history


def _products(recipe: Recipe, device: torch.device) -> AbstractContextManager[None]:
    """Return the context of the products in `recipe.precision`. Torch's compiler would fuse the roundings away."""
    return bf16_products(device) if recipe.precision == "bf16" and not recipe.compile else nullcontext()


def _whole(checkpoint: Path, stage: str) -> bool:
    """Tell whether a fit can go on from `checkpoint`; warn where it is damaged. The same on all ranks, as its bytes."""
    try:
        SafeCheckpointIO().load_checkpoint(checkpoint)
    except UserError as error:
        log.warning("the checkpoint of %s is damaged, so that fit starts again: %s", stage, error)
        return False
    return True


def _trainer(
    stage: Fit, machine: Machine, callbacks: list[pl.Callback], evaluate_first: bool, unused: bool
) -> pl.Trainer:
    with quiet():
        return pl.Trainer(
            accelerator=machine.accelerator,
            devices=machine.devices,
            num_nodes=1 if machine.strategy == RAY else machine.nodes,  # Ray's environment counts its own
            strategy=_strategy(machine.strategy, unused),
            sync_batchnorm=machine.sync_batchnorm,
            precision=PRECISIONS[stage.recipe.precision],  # type: ignore[arg-type]
            max_epochs=stage.recipe.epochs,
            gradient_clip_val=stage.recipe.clip_norm,
            plugins=[SafeCheckpointIO(), _environment(machine.strategy)],
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=False,  # `Progress` shows ours
            enable_model_summary=False,
            use_distributed_sampler=False,  # our loaders shard themselves
            num_sanity_val_steps=-1 if evaluate_first else 0,  # -1: over all images
            benchmark=True,
        )


def _strategy(name: str, unused: bool) -> Any:
    """Return the strategy of that name, of ranks that look for parameters without a gradient where there are `unused`
    ones."""
    if name != RAY:
        return FINDING if unused else name
    from ray.train.lightning import RayDDPStrategy

    return RayDDPStrategy(find_unused_parameters=unused)


def _environment(strategy: str) -> Any:
    """Return what says which ranks there are. Without it Lightning takes a batch system's task count for them."""
    if strategy == RAY:
        from ray.train.lightning import RayLightningEnvironment

        return RayLightningEnvironment()
    return TorchElasticEnvironment() if distributed.launched() else LightningEnvironment()


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
    """Silence Lightning's notices: the command line says what matters."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning_fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="pytorch_lightning|lightning_fabric|torch")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
