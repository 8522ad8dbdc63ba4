"""A trial on a Ray worker: its specification as data, and its execution in one process or several."""

from __future__ import annotations

import json
import traceback
from pathlib import Path
from typing import Any

from paredown.core import distributed
from paredown.core.errors import UserError
from paredown.run.walk import stage_of
from paredown.sweep import in_process, multi_node, multi_process
from paredown.sweep.in_process import Report, WorkerDied, first_line, reset_process
from paredown.sweep.planning import Planned
from paredown.sweep.resources import worker_resources
from paredown.sweep.spec import Resources


def trial_spec(planned: Planned, resources: Resources, holder: str) -> dict[str, Any]:
    """Return the specification of `planned` as JSON data: self-contained, with absolute paths and all choices made, so
    that a process on any node can run it. Its leases in object storage are held as `holder`."""
    experiment = planned.experiment
    if experiment.begun() is not experiment:
        raise UserError(
            f"{experiment.folder.name}: another process has begun in another precision or layout: run this again"
        )
    config = json.loads(json.dumps(experiment.settled))
    config["output"] = str(experiment.output)
    config["dataset"] |= _folders(experiment.data)
    if config["transfer"].get("dataset"):
        config["transfer"]["dataset"] |= _folders(experiment.source)
    if config["model"]["weights"]:
        config["model"]["weights"] = str(Path(config["model"]["weights"]).absolute())
    config["tracking"]["uri"] = "off"  # workers write journals only: the driver is the one writer to MLflow
    spec = {"config": config, "key": experiment.key, "holder": holder}
    if resources.across_nodes:
        return spec | {"multi_node": {"workers": resources.workers, "per_worker": worker_resources(resources)}}
    return spec


def perform(spec: dict[str, Any], report: Report) -> None:
    """Run the experiment of `spec`; call `report` after every epoch and with the final result or failure. Exceptions
    are deterministic and reported, not raised; Ray retries only dead workers."""
    on_nodes, devices = "multi_node" in spec, spec["config"]["trainer"]["devices"]
    distributed.ignore_launchers()  # of the shell that Ray was started in: this process is alone
    try:
        reset_process(spec["config"]["trainer"]["threads"])
        if on_nodes:
            multi_node.run(spec)
        elif devices > 1:
            multi_process.run(spec, report)
        else:
            in_process.run(spec, report)
    except WorkerDied:
        raise
    except Exception as error:
        # an exception of another process arrives as text, without the stage it was raised in
        failed_in = {"failed_in": stage_of(error)} if not on_nodes and devices == 1 else {}
        report({"failed": first_line(error), "trace": traceback.format_exc()} | failed_in)


def _folders(data: Any) -> dict[str, str]:
    return {"root": str(data.root), "cache": str(data.cache)}
