"""A sweep from its plan to its end, on Ray Tune: Ray schedules, retries and places."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.sweep.board import Board
from paredown.sweep.file import Search, Stop
from paredown.sweep.room import concurrent, resources_of

if TYPE_CHECKING:
    from paredown.sweep.tree import Tree

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables: ours say more
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # its csv and json files: our records are the journals
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the last report has results and no epoch's figures
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # a sweep resumes from the store, not from Tune's snapshots
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",  # asked before anything starts
}
NEVER = 1_000_000  # epochs: the recipe ends a training, not the scheduler


def run_trials(board: Board, folder: Path, search: Search | None = None, stop: Stop | None = None) -> None:
    """Run on a connected Ray what `board` has waiting, and what `search` adds to it, until each experiment is done, has
    failed or was ended by `stop`. A search keeps what it learnt in `folder`."""
    os.environ.update(ENVIRONMENT)
    import ray
    from ray import tune

    from paredown.sweep import memory
    from paredown.sweep.tree import Events
    from paredown.sweep.trial import trial

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # whose process died, and of what, `Events` hears
    memory.install()
    sweep = board.plan.sweep
    tree = _tree(board, search, folder)
    fit = max(1, concurrent(sweep, [node["Resources"] for node in ray.nodes() if node["Alive"]]))
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(fit)  # its 1 starts one process after another
    with tempfile.TemporaryDirectory(prefix="paredown-tune-") as place:
        tuner = tune.Tuner(
            tune.with_resources(trial, resources_of(sweep)),
            tune_config=tune.TuneConfig(
                search_alg=tree,
                num_samples=-1 if search else len(board.waiting),
                max_concurrent_trials=fit if sweep.resources.across_nodes else None,
                scheduler=_scheduler(stop or Stop()),
                # a trial that is stopped in the middle may not let go in time, which Tune blames on the next one
                reuse_actors=sweep.reuse_actors and (stop or Stop()).rule == "none",
                trial_name_creator=lambda t: f"{sweep.name}_{t.trial_id}",
                trial_dirname_creator=lambda t: str(t.trial_id),
            ),
            run_config=tune.RunConfig(
                name=sweep.name,
                storage_path=place,
                callbacks=[Events(tree)],
                failure_config=tune.FailureConfig(max_failures=sweep.retries),
                verbose=0,
            ),
        )
        tuner.fit()
    for run in list(board.running.values()):
        board.fail(run.planned, "Ray Tune lost sight of it")


def _tree(board: Board, search: Search | None, folder: Path) -> Tree:
    if search:
        from paredown.sweep.search import SearchTree  # Optuna: a second that a grid need not wait

        return SearchTree(board, search, folder)
    from paredown.sweep.tree import Tree

    return Tree(board)


def _scheduler(stop: Stop) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule

    if stop.rule == "none":
        return FIFOScheduler()
    common: dict[str, Any] = {"time_attr": "epochs_done", "metric": stop.metric, "mode": "max"}
    if stop.rule == "asha":
        return ASHAScheduler(**common, grace_period=stop.grace, max_t=NEVER)

    class Median(MedianStoppingRule):
        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
            """Nothing: the last report is the experiment's result, its epochs were heard of before."""

    never: Any = math.inf  # a trial that is paused would lose its epoch
    return Median(**common, grace_period=stop.grace, min_time_slice=never)
