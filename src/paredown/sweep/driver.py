"""A sweep from its plan to its end, on Ray Tune: Ray schedules, retries and places."""

from __future__ import annotations

import logging
import os
import tempfile

from paredown.sweep.board import Board
from paredown.sweep.file import Sweep

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables: ours say more
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # its csv and json files: our records are the journals
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # a sweep resumes from the store, not from Tune's snapshots
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",  # asked before anything starts
}


def run_trials(board: Board) -> None:
    """Run on a connected Ray what `board` has waiting, until each experiment has a result or has failed."""
    os.environ.update(ENVIRONMENT)
    from ray import tune

    from paredown.sweep.tree import Events, Tree
    from paredown.sweep.trial import trial

    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    sweep, tree = board.plan.sweep, Tree(board)
    with tempfile.TemporaryDirectory(prefix="paredown-tune-") as folder:
        tuner = tune.Tuner(
            tune.with_resources(trial, resources_of(sweep)),
            tune_config=tune.TuneConfig(
                search_alg=tree,
                num_samples=len(board.waiting),
                reuse_actors=sweep.reuse_actors,
                trial_name_creator=lambda t: f"{sweep.name}_{t.trial_id}",
                trial_dirname_creator=lambda t: str(t.trial_id),
            ),
            run_config=tune.RunConfig(
                name=sweep.name,
                storage_path=folder,
                callbacks=[Events(tree)],
                failure_config=tune.FailureConfig(max_failures=sweep.retries),
                verbose=0,
            ),
        )
        tuner.fit()


def resources_of(sweep: Sweep) -> dict[str, float]:
    """What Ray sets aside for one experiment."""
    resources = sweep.resources
    gpus = {"gpu": resources.gpus * resources.workers} if resources.gpus else {}
    return {"cpu": resources.cpus * resources.workers} | gpus
