"""Execution of a planned sweep: locked by its name, displayed, recorded, and closed in order however it ends."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from paredown.core.errors import UserError
from paredown.sweep import cluster
from paredown.sweep.display import Display
from paredown.sweep.driver import run_trials
from paredown.sweep.mlflow_sync import MlflowSync
from paredown.sweep.planning import Plan
from paredown.sweep.progress import Progress
from paredown.sweep.spec import Search, Stop
from paredown.sweep.watch import ClusterLost, Ending, end_soon, processes_of_ray, relax, watched
from paredown.tracking.tracker import Status

log = logging.getLogger("paredown")


def run(plan: Plan, connect: cluster.Connect) -> Progress:
    """Run what is missing of `plan` on the Ray cluster that `connect` joins. Finished experiments are kept and recorded
    whatever interrupts it.

    Raise UserError before anything starts if there is no Ray cluster, or none with enough resources for an experiment.
    """
    progress = Progress(plan)
    if not progress.has_work:
        progress.add_controls()  # all experiments are finished, perhaps not all controls
    with _exclusive(plan) as folder:
        has_work = progress.has_work
        dashboard = connect() if has_work else None
        sync = MlflowSync(progress, folder)
        status: Status = "FAILED"

        def ending(reason: str) -> str:  # while Ray blocks this thread
            line = _count(progress, reason)
            sync.close("KILLED")
            return line

        try:
            if has_work:
                with Display(progress, dashboard):
                    _run(progress, folder, ending)
            status = "FINISHED"
        except (KeyboardInterrupt, ClusterLost):
            status = "KILLED"
            raise
        finally:
            if has_work:  # otherwise Ray may still be starting
                cluster.disconnect()
            sync.close(status)
            relax()
    return progress


def _run(progress: Progress, folder: Path, ending: Ending) -> None:
    """Run the sweep's experiments, then their controls, which no search proposes and no rule stops."""
    sweep = progress.plan.sweep
    if sweep.search or any(not planned.control for planned in progress.waiting):
        _run_watched(progress, folder, ending, sweep.search, sweep.stop)
    progress.add_controls()
    if progress.waiting:
        _run_watched(progress, folder, ending)


def _run_watched(
    progress: Progress, folder: Path, ending: Ending, search: Search | None = None, stop: Stop | None = None
) -> None:
    """Run the trials. Raise ClusterLost, with what is done so far, where the local Ray dies before they are done."""
    processes = processes_of_ray()
    try:
        with watched(processes, ending):
            run_trials(progress, folder, search, stop)
    except ClusterLost as error:
        line = _count(progress, str(error))
        if search or progress.waiting or progress.running:
            end_soon(str(error), processes, ending)
            raise ClusterLost(line) from error
        log.warning("%s, when every experiment was done", error)


def _count(progress: Progress, reason: str) -> str:
    """Say how many experiments are done, with those that workers stored and Ray did not report before `reason`."""
    progress.take_stored()
    return f"{reason}; {len(progress.results)} of {progress.total} experiments are done and kept"


@contextmanager
def _exclusive(plan: Plan) -> Iterator[Path]:
    """Lock the sweep's folder against other drivers. Raise UserError if another one holds it."""
    try:
        with plan.store.exclusive(plan.folder, timeout=0):
            yield plan.folder
    except Timeout as error:
        raise UserError(f"sweep {plan.sweep.name} is running already (it holds {plan.folder}/.lock)") from error
