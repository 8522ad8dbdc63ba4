"""The way through the house: take an experiment's plan, run what is not in the store, measure, record."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from paredown import blueprint, distributed
from paredown.config import compose
from paredown.errors import UserError
from paredown.experiment import Experiment, Step, prepare
from paredown.plan import Context, Edit, Network, describe
from paredown.store import Record
from paredown.training.machine import tell_precision

if TYPE_CHECKING:
    from paredown.tracking.tracker import Tracker

RESULT = "result.json"
IN_STAGE = "in the stage of key "
log = logging.getLogger("paredown")
Row = dict[str, float]
Watch = Callable[[Step, int, Row], None]


@dataclass(frozen=True)
class Result:
    """What an experiment gave: `metrics` under the names of docs/architecture.md, `state` the folder of the trained
    network (blueprint.load reads it), `folder` with figures and records, `run_id` of the MLflow run (None if none)."""

    metrics: dict[str, float]
    state: Path
    folder: Path
    run_id: str | None
    reused: bool = False


def run(overrides: list[str]) -> Result:
    """Run the experiment of `overrides` (as typed after src/run.py), or return its stored result.

    Raises UserError before anything is trained for whatever is wrong with the overrides.
    """
    experiment = prepare(compose(overrides))
    distributed.join()
    if distributed.from_rank_zero(finished(experiment)):
        return stored_result(experiment)
    if experiment.machine.devices > 1 and not distributed.launched():
        return _run_in_processes(experiment, overrides)
    if distributed.launched() and not distributed.rank():
        log.setLevel(logging.INFO)  # the plan was told by the process that started the ranks; from here on rank 0 tells
    if experiment.machine.threads:
        torch.set_num_threads(experiment.machine.threads)
    return carry_out(experiment)


def _run_in_processes(experiment: Experiment, overrides: list[str]) -> Result:
    code = distributed.launch(overrides, experiment.machine.devices)
    if code or not finished(experiment):
        raise RuntimeError(f"the {experiment.machine.devices} processes ended with exit code {code}")
    return replace(stored_result(experiment), reused=False)


def finished(experiment: Experiment) -> bool:
    """Whether the result of `experiment` is there, and the state that it speaks of."""
    if not (experiment.folder / RESULT).is_file():
        experiment.store.pull(experiment.folder)
    return (experiment.folder / RESULT).is_file() and experiment.store.has(experiment.steps[-1].key)


def stored_result(experiment: Experiment) -> Result:
    """The result of a finished experiment; what of its records still waits is sent where the configuration says."""
    metrics = json.loads((experiment.folder / RESULT).read_text())
    tracker = _tracker(experiment)
    if tracker.waits and not distributed.rank():
        tracker.send()
    state = experiment.store.folder(experiment.steps[-1].key)
    return Result(metrics, state, experiment.folder, tracker.run_id, reused=True)


def carry_out(experiment: Experiment, watch: Watch | None = None) -> Result:
    """Run what is missing of `experiment`, on every rank; rank 0 measures and records. `watch(step, epoch, row)` is
    called on each after every epoch that is trained, not for those that the store has."""
    watch = watch or (lambda step, epoch, row: None)
    if distributed.rank():
        _walk(experiment, lambda row, step: None, watch)
        distributed.barrier()
        return Result({}, experiment.store.folder(experiment.steps[-1].key), experiment.folder, None)
    with experiment.store.alone(experiment.folder):  # a second process waits and finds the result
        if not distributed.launched() and finished(experiment):  # by the process that held the lock
            return stored_result(experiment)
        tell_precision(experiment.config["recipe"]["precision"], experiment.device)
        tracker = _tracker(experiment)
        with _recorded(experiment, tracker):
            network, history = _walk(experiment, _reporter(experiment, tracker), watch)
            result = _conclude(experiment, network, history, tracker)
        distributed.barrier()
    return result


def _walk(experiment: Experiment, report: Callable[[Row, int], None], watch: Watch) -> tuple[Network, list[Row]]:
    """Every stage in turn, each from the store where it is there; returns the last network and the rows of the
    fit that made it, none where that is an edit."""
    steps, store = experiment.steps, experiment.store
    done = [distributed.from_rank_zero(store.has(step.key)) for step in steps]
    first = max((index + 1 for index, finished in enumerate(done) if finished), default=0)
    network = store.read(steps[first - 1].key) if first else experiment.dense()
    epochs = 0
    last_rows: list[Row] = []
    for index, step in enumerate(steps):
        offset = epochs
        if index >= first:
            try:
                network = _advance(experiment, step, network, _both(report, watch, step, offset))
            except Exception as error:
                error.add_note(f"{IN_STAGE}{step.key}")
                raise
        if isinstance(step.stage, Edit):
            last_rows = []  # the network is another one from here on
        elif store.has(step.key):
            last_rows = store.record(step.key).history
            for epoch, row in enumerate(last_rows):  # what another experiment trained, or an earlier try
                report(row, offset + epoch)
            epochs += len(last_rows)
    return network, last_rows


def _advance(experiment: Experiment, step: Step, network: Network, report: Callable[[int, Row], None]) -> Network:
    """Run one stage and keep its state; returns the network as read back, so that going on equals resuming."""
    store, stage = experiment.store, step.stage
    alone = nullcontext() if distributed.rank() else store.lock(step.key, lambda: log.info(WAITING, stage.name))
    with alone:
        if not distributed.from_rank_zero(store.has(step.key)):
            from pytorch_lightning import seed_everything  # here, so that planning does without

            from paredown.training.fit import fit

            started = time.perf_counter()
            seed_everything(step.seed % 2**32, verbose=False)
            history: list[Row] = []
            notes: dict[str, Any] = {}
            if isinstance(stage, Edit):
                context = Context(step.data, experiment.device, step.seed, store.shared)
                found = stage.function(network, context, **stage.arguments)
                notes = dict(found or {})
                distributed.require_agreement(network.module, stage.name)
            else:
                place = store.workplace(step.key)
                history = fit(network, stage, step.data, step.seed, experiment.machine, place, report, store.shared)
            if not distributed.rank():
                seconds = time.perf_counter() - started
                values = (step.key, step.parent, describe(stage), experiment.seed, step.data.key)
                store.put(network, Record(*values, seconds, history, notes))
        distributed.barrier()
    store.refresh()
    if not store.has(step.key):
        raise UserError(f"{store.root} is not shared by all ranks: choose an output folder that every node sees")
    return store.read(step.key)


def stage_of(error: Exception) -> str:
    """The key of the stage in which `carry_out` raised `error`, "" where it was in none."""
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(IN_STAGE)]
    return notes[0].removeprefix(IN_STAGE) if notes else ""


def _both(report: Callable[[Row, int], None], watch: Watch, step: Step, offset: int) -> Callable[[int, Row], None]:
    def tell(epoch: int, row: Row) -> None:
        report(row, offset + epoch)
        watch(step, epoch, row)

    return tell


WAITING = "%s: another process is training this stage; waiting for its result"


def _conclude(experiment: Experiment, network: Network, history: list[Row], tracker: Tracker) -> Result:
    from paredown.conclude import description, figures, layers, measure, optimised, price, total
    from paredown.figures import page

    spent = price(experiment)
    execution = optimised(experiment, network)
    metrics = measure(experiment, network, history, execution) | total(experiment, spent)
    tracker.metrics(metrics, step=len(history))
    tracker.text(page(figures(experiment, network)), "figures.html")
    state = experiment.store.folder(experiment.steps[-1].key)
    for name in (blueprint.ARCHITECTURE, blueprint.WEIGHTS):
        tracker.artifact(state / name, "state")
    tracker.text(json.dumps(layers(experiment, network), indent=1), "layers.json")
    if execution is not None:
        tracker.text(json.dumps(execution.choices, indent=1), "execution.json")
    note = description(experiment, metrics)  # of the run's page
    # the price is a tag, so that one request tells what every run of a sweep took
    tracker.finish(tags={"mlflow.note.content": note, "price": json.dumps(spent)})
    blueprint.write_text(experiment.folder / RESULT, json.dumps(metrics, indent=1))
    return Result(metrics, state, experiment.folder, tracker.run_id)


@contextmanager
def _recorded(experiment: Experiment, tracker: Tracker) -> Iterator[None]:
    from paredown.conclude import environment, tags

    settings = describe(experiment.settled)
    tracker.start(experiment.folder.name, settings, tags(experiment))
    tracker.text(json.dumps(settings, indent=1), "config.json")
    tracker.text(json.dumps([_entry(step) for step in experiment.steps], indent=1), "plan.json")
    tracker.text(environment(), "environment.txt")
    try:
        yield
    except BaseException as error:
        tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise


def _entry(step: Step) -> dict[str, Any]:
    return {"stage": describe(step.stage), "data": step.data.name, "parent": step.parent, "key": step.key}


def _tracker(experiment: Experiment) -> Tracker:
    from paredown.tracking.tracker import Tracker

    settings = experiment.config["tracking"]
    return Tracker(experiment.folder, settings["uri"], settings["experiment"])


def _reporter(experiment: Experiment, tracker: Tracker) -> Callable[[Row, int], None]:
    def report(row: Row, step: int) -> None:
        tracker.metrics(row, step)
        tracker.send()
        experiment.store.push(experiment.folder)

    return report
