"""What one trial does: an experiment, in a process that other experiments used before."""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra

from paredown.bucket import sign_as
from paredown.errors import UserError
from paredown.execute import Row, carry_out, stage_of
from paredown.experiment import Experiment, Step, prepare
from paredown.plan import Fit
from paredown.sweep.file import Resources
from paredown.sweep.planning import Planned

Report = Callable[[dict[str, Any]], None]


class WorkerDied(RuntimeError):
    """A process or node under an experiment is gone: it may be tried again."""


def specification(planned: Planned, resources: Resources, holder: str) -> dict[str, Any]:
    """All that a process anywhere needs to run `planned`, as JSON data: no relative path, nothing left to choose. In a
    bucket it signs as `holder`."""
    experiment = planned.experiment
    config = json.loads(json.dumps(experiment.settled))
    config["output"] = str(experiment.output)
    config["dataset"] |= _places(experiment.data)
    if config["transfer"].get("dataset"):
        config["transfer"]["dataset"] |= _places(experiment.source)
    if config["model"]["weights"]:
        config["model"]["weights"] = str(Path(config["model"]["weights"]).absolute())
    config["tracking"]["uri"] = "off"  # the journal alone: the driver is the only one that writes to MLflow
    config["trainer"]["threads"] = config["trainer"]["threads"] or max(1, int(resources.cpus))
    given = {"config": config, "key": experiment.key, "holder": holder}
    if resources.across_nodes:
        config["trainer"] |= {"devices": 1, "strategy": "ray"}
        each = {"CPU": resources.cpus} | ({"GPU": resources.gpus} if resources.gpus else {})
        return given | {"across": {"workers": resources.workers, "each": each}}
    config["trainer"] |= {"devices": resources.workers} | ({"strategy": "ddp"} if resources.workers > 1 else {})
    return given


def perform(given: dict[str, Any], report: Report) -> None:
    """Run the experiment of the specification `given`. `report` hears of each epoch and, last, of the `result` or of
    what `failed`: what raises would raise again, so only the death of a process is left to Ray to retry."""
    try:
        refresh(given["config"]["trainer"]["threads"])
        if "across" in given:
            from paredown.sweep.across import run as run_across

            run_across(given)
        elif given["config"]["trainer"]["devices"] > 1:
            from paredown.sweep.ranks import run

            run(given, report)
        else:
            run_here(given, report)
    except WorkerDied:
        raise
    except Exception as error:
        alone = "across" not in given and given["config"]["trainer"]["devices"] == 1
        failed_in = {"failed_in": stage_of(error)} if alone else {}  # what other processes raise is known by its text
        report({"failed": first_line(error), "trace": traceback.format_exc()} | failed_in)


def run_here(given: dict[str, Any], report: Report) -> None:
    """The same in this process, for which any error is the caller's matter."""
    sign_as(given["holder"])
    experiment = prepare(given["config"])
    if experiment.key != given["key"]:
        raise UserError("this node makes another experiment of the same settings: its data or its code differ")
    trained: list[str] = []

    def watch(step: Step, epoch: int, row: Row) -> None:
        if step.key not in trained:
            trained.append(step.key)
        report(progress(experiment, step, epoch) | row)

    torch.set_num_threads(experiment.machine.threads or 1)
    result = carry_out(experiment, watch)
    report({"result": json.dumps(result.metrics), "trained": trained})


def progress(experiment: Experiment, step: Step, epoch: int) -> dict[str, Any]:
    """How far the experiment is after `epoch` (0-based) of `step`; `epochs_done` counts from its first fit on."""
    assert isinstance(step.stage, Fit)
    earlier = [other.stage for other in experiment.steps[: experiment.steps.index(step)]]
    before = sum(stage.recipe.epochs for stage in earlier if isinstance(stage, Fit))
    images = (epoch + 1) * step.data.sizes["train"]
    return {
        "stage": step.stage.name,
        "key": step.key,
        "epoch": epoch + 1,
        "epochs": step.stage.recipe.epochs,
        "epochs_done": before + epoch + 1,
        "images": images,
    }


def refresh(threads: int) -> None:
    """Take back what an earlier experiment may have left in this process."""
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


def _places(data: Any) -> dict[str, str]:
    return {"root": str(data.root), "cache": str(data.cache)}


def first_line(error: Exception) -> str:
    """What `error` says, in one line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
