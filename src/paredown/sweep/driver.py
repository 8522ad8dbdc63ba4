"""The execution of a sweep on Ray Tune, which schedules, places and retries the trials."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paredown.sweep.progress import Progress
from paredown.sweep.resources import concurrent, trial_resources
from paredown.sweep.spec import Search, Stop

if TYPE_CHECKING:
    from paredown.sweep.searcher import StageSearcher

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables: ours show more
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # its CSV and JSON files: our journals replace them
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # we handle Ctrl-C
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # the last report has the result and no epoch's metrics
    "TUNE_GLOBAL_CHECKPOINT_S": "600",  # a sweep resumes from the store, not from Tune's snapshots
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "1000000",  # checked before anything starts
}
UNLIMITED_EPOCHS = 1_000_000  # the recipe ends a training, not the scheduler


def run_trials(progress: Progress, folder: Path, search: Search | None = None, stop: Stop | None = None) -> None:
    """Run the waiting experiments of `progress`, and those that `search` proposes, on the connected Ray cluster until
    each is finished, failed or stopped early by `stop`. A search keeps its study in `folder`."""
    os.environ.update(ENVIRONMENT)
    import ray
    from ray import tune

    from paredown.sweep import oom
    from paredown.sweep.searcher import TrialCallback
    from paredown.sweep.trial import trial

    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # `TrialCallback` records processes that died
    oom.install()
    sweep = progress.plan.sweep
    searcher = _searcher(progress, search, folder)
    fit = max(1, concurrent(sweep, [node["Resources"] for node in ray.nodes() if node["Alive"]]))
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(fit)  # the default of 1 starts processes one after another
    with tempfile.TemporaryDirectory(prefix="paredown-tune-") as storage:
        tuner = tune.Tuner(
            tune.with_resources(trial, trial_resources(sweep)),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1 if search else len(progress.waiting),
                max_concurrent_trials=fit if sweep.resources.across_nodes else None,
                scheduler=_scheduler(stop or Stop()),
                # a trial that is stopped in mid-epoch may not end in time, and Tune would fail the next one for it
                reuse_actors=sweep.reuse_actors and (stop or Stop()).rule == "none",
                trial_name_creator=lambda t: f"{sweep.name}_{t.trial_id}",
                trial_dirname_creator=lambda t: str(t.trial_id),
            ),
            run_config=tune.RunConfig(
                name=sweep.name,
                storage_path=storage,
                callbacks=[TrialCallback(searcher)],
                failure_config=tune.FailureConfig(max_failures=sweep.retries),
                verbose=0,
            ),
        )
        tuner.fit()
    for lost in list(progress.running.values()):
        progress.fail(lost.planned, "Ray Tune lost track of it")


def _searcher(progress: Progress, search: Search | None, folder: Path) -> StageSearcher:
    if search:
        from paredown.sweep.search import OptunaStageSearcher  # imports Optuna for a second, which a grid can save

        return OptunaStageSearcher(progress, search, folder)
    from paredown.sweep.searcher import StageSearcher

    return StageSearcher(progress)


def _scheduler(stop: Stop) -> Any:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule

    if stop.rule == "none":
        return FIFOScheduler()
    common: dict[str, Any] = {"time_attr": "epochs_done", "metric": stop.metric, "mode": "max"}
    if stop.rule == "asha":
        return ASHAScheduler(**common, grace_period=stop.grace, max_t=UNLIMITED_EPOCHS)

    class Median(MedianStoppingRule):
        def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
            """Do nothing: the last report is the result, without an epoch's metrics."""

    never_pause: Any = math.inf  # a paused trial would lose its epoch
    return Median(**common, grace_period=stop.grace, min_time_slice=never_pause)
