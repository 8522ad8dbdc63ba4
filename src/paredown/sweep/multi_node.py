"""A trial on workers of several nodes, started by Ray Train: each runs the whole experiment as one rank."""

from __future__ import annotations

import json
import tempfile
from typing import Any

from paredown.sweep import in_process
from paredown.sweep.in_process import WorkerDied, reset_process


def run(spec: dict[str, Any]) -> None:
    """Run the trial specification `spec` inside a Tune trial, to which Ray Train forwards every report.

    Raise RuntimeError with the message of a worker's exception, and WorkerDied if a worker died.
    """
    from ray.exceptions import RayError
    from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    asked = spec["multi_node"]
    with_gpus = "GPU" in asked["per_worker"]
    with tempfile.TemporaryDirectory(prefix="paredown-train-") as folder:
        trainer = TorchTrainer(
            run_rank,
            train_loop_config={"spec": json.dumps(spec)},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if with_gpus else "gloo"),
            scaling_config=ScalingConfig(
                num_workers=asked["workers"], resources_per_worker=asked["per_worker"], use_gpu=with_gpus
            ),
            run_config=RunConfig(
                name=spec["key"],
                storage_path=folder,
                callbacks=[TuneReportCallback()],  # type: ignore[list-item]  # Ray's stubs show the older one
                failure_config=FailureConfig(max_failures=0),  # Tune retries the whole trial
            ),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            raised = [failure for failure in error.worker_failures.values() if not isinstance(failure, RayError)]
            if len(raised) < len(error.worker_failures):
                raise WorkerDied(_last_line(error)) from error
            raise RuntimeError(_last_line(raised[0])) from error


def run_rank(settings: dict[str, Any]) -> None:
    """Run one rank in the process group of Ray Train, which collects the reports of all ranks."""
    from ray import train

    spec = json.loads(settings["spec"])
    reset_process(spec["config"]["trainer"]["threads"])
    in_process.run(spec, train.report)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
