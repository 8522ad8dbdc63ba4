"""Training steps on a device that is not there: FakeTensorMode knows a tensor's shape and device, and no values."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeCopyMode,
    FakeTensorMode,
)

from paredown.core.errors import reason
from paredown.training.batches import Batches
from paredown.training.module import FitModule

log = logging.getLogger("paredown")
# stands for a GPU: other than the CPU, and autograd asks no driver about it. Branches on device.type == "cuda" are not
# followed
DEVICE = torch.device("meta")
STEPS = 6  # of an epoch, at most: masks that move do so within them
NEEDS_VALUES = (DataDependentOutputException, DynamicOutputShapeException)


@contextmanager
def followed() -> Iterator[list[str | None]]:
    """Follow the first steps of each training that begins in the block, before it runs. Yield, by training, what is
    wrong with them, an operator between devices, say; None for nothing."""
    found: list[str | None] = []
    fit = pl.Trainer.fit

    def follow_and_fit(trainer: pl.Trainer, module: FitModule, datamodule: Batches, **more: Any) -> None:
        with torch.random.fork_rng(devices=[]):
            found.append(follow(module, datamodule))
        fit(trainer, module, datamodule=datamodule, **more)

    with patch.object(pl.Trainer, "fit", follow_and_fit):
        yield found


def follow(module: FitModule, batches: Batches) -> str | None:
    """Make `STEPS` training steps of a copy of `module` on `DEVICE`, and evaluate a batch. Return what is wrong in a
    line, None where all of them, or all up to one that needs values, compute on one device."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)  # images come from real memory
    module = _on_device(module, mode)
    try:
        # autocast knows no such device; nothing is cast here, so that leaving its regions out changes nothing
        with mode, patch.object(torch, "autocast", lambda *_, **__: nullcontext()):
            _train(module, batches.data.input_shape, batches.batch_size)
    except NEEDS_VALUES as error:
        log.info("a training step is followed on another device until %s", reason(error))
        return None
    except Exception as error:
        return reason(error)
    return None


def _on_device(module: FitModule, mode: FakeTensorMode) -> FitModule:
    """Copy `module` as it is when Lightning has moved it: parameters are moved in place, buffers are replaced by moved
    ones, and what else a hook keeps stays where it is."""
    context = module.fit.context
    with mode:
        moved = {id(one): nn.Parameter(_empty(one), one.requires_grad) for one in module.parameters()}
    with FakeCopyMode(mode):
        copied = copy.deepcopy(module, {**moved, id(context): replace(context, device=DEVICE)})
    with mode:
        for one in copied.modules():
            one._buffers.update({name: _empty(held) for name, held in one._buffers.items() if held is not None})
    return copied


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=DEVICE)


def _train(module: FitModule, shape: Sequence[int], batch_size: int) -> None:
    module._device = DEVICE
    trainer: Any = SimpleNamespace(num_training_batches=STEPS, sanity_checking=False, global_rank=0)
    module._trainer = trainer
    trainer.optimizers = [optimizer := module.configure_optimizers()]
    trainer.current_epoch = trainer.global_step = 0
    module.on_train_epoch_start()
    for index in range(STEPS):
        trainer.global_step = index
        images = torch.randn(batch_size, *shape, device=DEVICE)
        batch = images, torch.zeros(batch_size, dtype=torch.int64, device=DEVICE)
        module.on_train_batch_start(batch, index)
        optimizer.zero_grad()
        module.training_step(batch, index).backward()
        module.on_before_optimizer_step(optimizer)
        optimizer.step()
        module.on_train_batch_end(None, batch, index)
    module.eval().on_validation_epoch_start()
    with torch.no_grad():
        module.validation_step(batch, 0)
