"""A trial in this process: the experiment itself, its progress reports, and a clean process to run it in."""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra

from paredown.core.errors import UserError
from paredown.core.plan import Fit
from paredown.experiment.experiment import Experiment, Step
from paredown.experiment.prepare import prepare
from paredown.run.walk import Row, carry_out
from paredown.store.lease import set_holder

Report = Callable[[dict[str, Any]], None]


class WorkerDied(RuntimeError):
    """The death of a process or node that ran the experiment: Ray may retry the trial."""


def run(spec: dict[str, Any], report: Report) -> None:
    """Run the experiment of the trial specification `spec` (see `worker.trial_spec`) in this process. Call `report`
    after every epoch and with the result; let exceptions pass."""
    set_holder(spec["holder"])
    experiment = prepare(spec["config"])
    if experiment.key != spec["key"]:
        raise UserError("this node makes another experiment of the same settings: its data or its code differ")
    trained: list[str] = []

    def watch(step: Step, epoch: int, row: Row) -> None:
        if step.key not in trained:
            trained.append(step.key)
        report(epoch_report(experiment, step, epoch) | row)

    torch.set_num_threads(experiment.machine.threads or 1)
    result = carry_out(experiment, watch)
    report({"result": json.dumps(result.metrics), "trained": trained})


def epoch_report(experiment: Experiment, step: Step, epoch: int) -> dict[str, Any]:
    """Return the progress after `epoch` (0-based) of `step`; `epochs_done` counts from the experiment's first fit,
    `images` are those of this fit."""
    assert isinstance(step.stage, Fit)
    earlier = [other.stage for other in experiment.steps[: experiment.steps.index(step)]]
    before = sum(stage.recipe.epochs for stage in earlier if isinstance(stage, Fit))
    return {
        "stage": step.stage.name,
        "key": step.key,
        "epoch": epoch + 1,
        "epochs": step.stage.recipe.epochs,
        "epochs_done": before + epoch + 1,
        "images": (epoch + 1) * step.images,
    }


def reset_process(threads: int) -> None:
    """Reset the global state that an earlier experiment may have changed in this process."""
    GlobalHydra.instance().clear()
    os.environ.pop("PL_GLOBAL_SEED", None)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
    torch.clear_autocast_cache()
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    for name in ("paredown", ""):
        logging.getLogger(name).setLevel(logging.WARNING)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def first_line(error: Exception) -> str:
    """Return the class of `error` and the first line of its message."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
