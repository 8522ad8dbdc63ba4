"""The walk through an experiment's plan: run what is not in the store, measure, record."""

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

from paredown.core import blueprint, distributed
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.files import sha256, write_text
from paredown.core.hooks import Context
from paredown.core.keys import described
from paredown.core.layout import CONFIG, ENVIRONMENT, EXECUTION, FIGURES, LAYERS, PLAN, RESULT, STATE, read_result
from paredown.core.memory import keep_freed
from paredown.core.network import Network
from paredown.core.plan import Edit
from paredown.core.progress import working_on
from paredown.core.requests import Failure
from paredown.experiment.experiment import Experiment, Step
from paredown.experiment.prepare import prepare
from paredown.published.settings import with_row
from paredown.store.states import Record
from paredown.training.machine import require_devices, warn_of_precision

if TYPE_CHECKING:
    from paredown.tracking.tracker import Status, Tracker

NOTE = "mlflow.note.content"  # tag: the head of a run's page in MLflow
IN_STAGE = "in the stage of key "
log = logging.getLogger("paredown")
Row = dict[str, float]
Watch = Callable[[Step, int, Row], None]


@dataclass(frozen=True)
class Result:
    """The result of an experiment: `metrics` under the names of docs/architecture.md, `state` the folder of the trained
    network (blueprint.load reads it), `folder` with figures and records, `run_id` of the MLflow run (None if none)."""

    metrics: dict[str, float]
    state: Path
    folder: Path
    run_id: str | None
    reused: bool = False


def run(overrides: list[str]) -> Result:
    """Run the experiment of `overrides` (as typed after src/run.py), or return its stored result.

    Raise UserError before anything is trained for whatever is wrong with the overrides.
    """
    experiment = prepare(compose(overrides := with_row(overrides)))
    require_devices(experiment.machine)
    distributed.join()
    experiment = experiment.begun()
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
    threads = "null" if experiment.latency.threads is None else experiment.latency.threads
    recipe = experiment.recipe  # what is timed is timed once, not by each rank
    layout = str(recipe.channels_last).lower()
    settled = {
        "recipe.precision": str(recipe.precision),
        "recipe.channels_last": layout,
        "latency.threads": str(threads),
    }
    others = [word for word in overrides if word.partition("=")[0].lstrip("+") not in settled]
    others += [f"{name}={value}" for name, value in settled.items()]
    code = distributed.launch(others, experiment.machine.devices)
    if code or not finished(experiment):
        raise Failure(
            f"the {experiment.machine.devices} processes ended with exit code {code}, after what they say above"
        )
    return replace(stored_result(experiment), reused=False)


def finished(experiment: Experiment) -> bool:
    """Tell whether the result of `experiment` exists, and the state that it belongs to."""
    if not (experiment.folder / RESULT).is_file():
        experiment.store.pull(experiment.folder)
    return (experiment.folder / RESULT).is_file() and experiment.store.has(experiment.steps[-1].key)


def stored_result(experiment: Experiment) -> Result:
    """Return the result of a finished experiment, and send its records that still wait to the tracking server."""
    metrics = read_result(experiment.folder)
    tracker = _tracker(experiment)
    if tracker.has_pending and not distributed.rank():
        tracker.send()
    state = experiment.store.folder(experiment.steps[-1].key)
    return Result(metrics, state, experiment.folder, tracker.run_id, reused=True)


def carry_out(experiment: Experiment, watch: Watch | None = None) -> Result:
    """Run what is missing of `experiment`, on every rank; rank 0 measures and records. `watch(step, epoch, row)` is
    called on each after every epoch that is trained, not for those that the store has."""
    distributed.ignore_launchers()  # before Lightning is imported, which reads them then
    from paredown.core.display import shown

    watch = watch or (lambda step, epoch, row: None)
    if distributed.rank():
        _walk(experiment, lambda row, step: None, watch)
        distributed.barrier()
        return Result({}, experiment.store.folder(experiment.steps[-1].key), experiment.folder, None)
    with experiment.store.exclusive(experiment.folder):  # a second process waits and finds the result
        if not distributed.launched() and finished(experiment):  # by the process that held the lock
            return stored_result(experiment)
        warn_of_precision(experiment.recipe.precision, experiment.device)
        if weights := experiment.config["model"]["weights"]:
            log.info("model.weights: %s, SHA-256 %s", weights, sha256(Path(weights)))
        tracker = _tracker(experiment)
        with shown(experiment.machine.progress), _recorded(experiment, tracker):
            network, history = _walk(experiment, _reporter(experiment, tracker), watch)
            result = _conclude(experiment, network, history, tracker)
        distributed.barrier()
    return result


def carry_out_stages(experiment: Experiment) -> tuple[Network, list[Row]]:
    """Run every stage in this process, or read it from the store, and neither measure nor record. Return the network
    and the rows of the fit that made it, none where that is an edit."""
    from paredown.core.display import shown

    with shown(experiment.machine.progress):
        return _walk(experiment, lambda row, step: None, lambda step, epoch, row: None)


def _walk(experiment: Experiment, report: Callable[[Row, int], None], watch: Watch) -> tuple[Network, list[Row]]:
    """Run every stage in turn, or read it from the store. Return the last network and the rows of the fit that made
    it, none where that is an edit."""
    keep_freed()
    steps, store = experiment.steps, experiment.store
    done = [distributed.from_rank_zero(store.has(step.key)) for step in steps]
    for step in [step for step, finished in zip(steps, done, strict=True) if finished and not distributed.rank()]:
        store.remove_scratch(step.key)
    first = done.index(False) if False in done else len(done)
    if any(done[first:]):  # later stages, and the method's metrics, read the states before them
        log.info("%s: its state was deleted from the store, it is made again", steps[first].stage.name)
    network = store.read(steps[first - 1].key) if first else experiment.dense()
    epochs = 0
    last_rows: list[Row] = []
    for index, step in enumerate(steps):
        live = _Live(report, watch, step, epochs)
        if index >= first:
            try:
                network = _advance(experiment, index, network, live)
            except Exception as error:
                error.add_note(f"{IN_STAGE}{step.key}")
                raise
        if isinstance(step.stage, Edit):
            last_rows = []  # the network is another one from here on
        elif store.has(step.key):
            last_rows = store.record(step.key).history
            live.complete(last_rows)
            epochs += len(last_rows)
    return network, last_rows


class _Live:
    """Reports the rows of a fit's epochs, each once: as they come, and in the end those that another process, or an
    earlier try, trained."""

    def __init__(self, report: Callable[[Row, int], None], watch: Watch, step: Step, offset: int) -> None:
        self.report, self.watch, self.step, self.offset = report, watch, step, offset
        self.reported: set[int] = set()

    def __call__(self, epoch: int, row: Row) -> None:
        self.reported.add(epoch)
        self.report(row, self.offset + epoch)
        self.watch(self.step, epoch, row)

    def complete(self, history: list[Row]) -> None:
        for epoch, row in enumerate(history):
            if epoch not in self.reported:
                self.report(row, self.offset + epoch)


def _advance(experiment: Experiment, number: int, network: Network, report: Callable[[int, Row], None]) -> Network:
    """Run stage `number` and keep its state. Return the network as read back, so that continuing equals resuming."""
    store, step = experiment.store, experiment.steps[number]
    alone = nullcontext() if distributed.rank() else store.lock(step.key, lambda: log.info(WAITING, step.stage.name))
    with alone:
        if not distributed.from_rank_zero(store.has(step.key)):
            started = time.perf_counter()
            with working_on(f"stage {number + 1} of {len(experiment.steps)}: {step.stage.name}"):
                history, notes = _carry_out_stage(experiment, number, network, report)
            distributed.require_agreement(network.module, step.stage.name)
            if not distributed.rank():
                seconds = time.perf_counter() - started
                values = (step.key, step.parent, described(step.stage), experiment.seed, step.data.key)
                store.put(network, Record(*values, seconds, history, notes))
        distributed.barrier()
    store.refresh()
    if not store.has(step.key):
        raise UserError(f"{store.root} is not shared by all ranks: choose an output folder that every node sees")
    return store.read(step.key)


def _carry_out_stage(
    experiment: Experiment, number: int, network: Network, report: Callable[[int, Row], None]
) -> tuple[list[Row], dict[str, Any]]:
    """Change or train `network` in place. Return the rows of a fit and the notes of an edit."""
    from pytorch_lightning import seed_everything  # late, so that planning does without

    from paredown.training.fit import fit

    store, step = experiment.store, experiment.steps[number]
    context = Context(step.data, experiment.device, step.seed, store.shared, experiment.earlier(number))
    seed_everything(step.seed % 2**32, verbose=False)
    if isinstance(step.stage, Edit):
        return [], dict(step.stage.function(network, context, **step.stage.arguments) or {})
    return fit(network, step.stage, context, experiment.machine, store.scratch_folder(step.key), report), {}


def stage_of(error: Exception) -> str:
    """Return the key of the stage in which `carry_out` raised `error`, "" if it was in none."""
    notes = [note for note in getattr(error, "__notes__", []) if note.startswith(IN_STAGE)]
    return notes[0].removeprefix(IN_STAGE) if notes else ""


WAITING = "%s: another process is training this stage; waiting for its result"


def _conclude(experiment: Experiment, network: Network, history: list[Row], tracker: Tracker) -> Result:
    from paredown.frontier.plots import page
    from paredown.results.measure import compared, measure
    from paredown.results.page import description, figures, layers
    from paredown.results.training_cost import as_tag, total, training_cost

    spent = training_cost(experiment)
    with working_on("measuring"):
        speed = compared(experiment, network)
        metrics = measure(experiment, network, history, speed) | total(experiment, spent)
    tracker.metrics(metrics, step=len(history))
    tracker.text(page(figures(experiment, network)), FIGURES)
    state = experiment.store.folder(experiment.steps[-1].key)
    for name in (blueprint.ARCHITECTURE, blueprint.WEIGHTS):
        tracker.artifact(state / name, STATE)
    tracker.text(json.dumps(layers(experiment, network), indent=1), LAYERS)
    if experiment.config["deploy"] == "auto":
        tracker.text(json.dumps(speed.choices, indent=1), EXECUTION)
    note = description(experiment, metrics)  # of the run's page
    # the training cost is a tag, so that one request tells what every run of a sweep took
    tracker.finish(tags={NOTE: note, "price": as_tag(spent)})
    write_text(experiment.folder / RESULT, json.dumps(metrics, indent=1))
    return Result(metrics, state, experiment.folder, tracker.run_id)


@contextmanager
def _recorded(experiment: Experiment, tracker: Tracker) -> Iterator[None]:
    from paredown.results.provenance import environment, tags

    settings = described(experiment.settled)
    tracker.start(experiment.title, settings, tags(experiment), send=tracker.is_begun)
    tracker.text(json.dumps(settings, indent=1), CONFIG)
    tracker.text(json.dumps([_entry(step) for step in experiment.steps], indent=1), PLAN)
    tracker.text(environment(), ENVIRONMENT)
    try:
        yield
    except BaseException as error:
        from paredown.results.page import last_attempt

        ending: Status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        tracker.finish(ending, {NOTE: last_attempt(error)})
        raise


def _entry(step: Step) -> dict[str, Any]:
    return {"stage": described(step.stage), "data": step.data.name, "parent": step.parent, "key": step.key}


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
