"""A trial on workers of several nodes: Ray Train starts them, each runs the whole experiment as one of its ranks."""

from __future__ import annotations

import json
import tempfile
from typing import Any

from paredown.sweep.work import WorkerDied, refresh, run_here


def run(given: dict[str, Any]) -> None:
    """Run the specification `given` in a Tune trial, which hears of every epoch and, last, of the result.

    Raises RuntimeError with what a worker raised, and WorkerDied where one died.
    """
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    asked = given["across"]
    with tempfile.TemporaryDirectory(prefix="paredown-train-") as place:
        trainer = TorchTrainer(
            rank,
            train_loop_config={"work": json.dumps(given)},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if "GPU" in asked["each"] else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=asked["workers"], resources_per_worker=asked["each"], use_gpu="GPU" in asked["each"]
            ),
            run_config=RunConfig(
                name=given["key"],
                storage_path=place,
                callbacks=[TuneReportCallback()],  # type: ignore[list-item]  # Ray's stubs show the older one
                failure_config=FailureConfig(max_failures=0),  # a trial is tried again as a whole, by Tune
            ),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            own = [failure for failure in error.worker_failures.values() if not isinstance(failure, RayError)]
            if len(own) < len(error.worker_failures):
                raise WorkerDied(_last_line(error)) from error
            raise RuntimeError(_last_line(own[0])) from error


def rank(settings: dict[str, Any]) -> None:
    """One rank, in the process group that Ray Train has made. Ray hears of every epoch from all of them."""
    from ray import train

    given = json.loads(settings["work"])
    refresh(given["config"]["trainer"]["threads"])
    run_here(given, train.report)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
