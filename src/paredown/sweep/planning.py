"""The plan of a sweep before anything runs: its experiments, their distinct stages, and which of them are stored."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from paredown.core.config import ControlKind, compose_all
from paredown.core.errors import UserError
from paredown.core.plan import Fit
from paredown.core.progress import Mode, mode_of
from paredown.data.images import ImageData
from paredown.experiment.experiment import Experiment, Plans, Step
from paredown.experiment.prepare import Opener, open_data, prepare
from paredown.run.walk import finished
from paredown.store.states import Store
from paredown.sweep.spec import Point, Resources, Sweep, control_points, merged, points, proposed
from paredown.training.machine import RAY, require_sync

log = logging.getLogger("paredown")


@dataclass(frozen=True)
class Planned:
    """One experiment of a sweep: `label` names the overrides that distinguish it, `overrides` are all of them;
    `controls` are planned when it is done."""

    label: str
    overrides: tuple[str, ...]
    experiment: Experiment
    controls: tuple[ControlKind, ...] = ()

    @property
    def control(self) -> str | None:
        """The kind of control, None for an experiment that is not a control."""
        kind: str | None = self.experiment.config["control"]
        return kind

    @property
    def finished(self) -> bool:
        """Whether its result is stored."""
        return finished(self.experiment)

    @property
    def missing(self) -> tuple[Step, ...]:
        """The stages still to run: those after the last one in the store."""
        steps, store = self.experiment.steps, self.experiment.store
        return steps[max((index + 1 for index, step in enumerate(steps) if store.has(step.key)), default=0) :]


@dataclass(frozen=True)
class StageCount:
    """The stages of one name: whether they train, how many are distinct, and how many of these are stored."""

    name: str
    trains: bool
    distinct: int
    stored: int


@dataclass(frozen=True)
class Plan:
    """The distinct experiments of a sweep, none yet if a search proposes them, and the output folder, store, tracking
    and progress settings that they share."""

    sweep: Sweep
    experiments: tuple[Planned, ...]
    output: Path
    store: Store
    tracking: Mapping[str, Any]
    precisions: tuple[str, ...] = ()  # what recipe.precision=auto became, and why
    layouts: tuple[str, ...] = ()  # and recipe.channels_last=auto
    progress: Mode = "auto"  # what is shown while it runs

    @property
    def folder(self) -> Path:
        """The folder of the sweep's records and report."""
        return self.output / "sweeps" / self.sweep.name

    @cached_property
    def steps(self) -> dict[str, Step]:
        """Every distinct stage by its key, parents first."""
        return {step.key: step for planned in self.experiments for step in planned.experiment.steps}

    @property
    def stage_counts(self) -> list[StageCount]:
        """The distinct stages counted by name, in execution order."""
        store = self.store
        named: dict[str, list[Step]] = {}
        for step in self.steps.values():
            named.setdefault(step.stage.name, []).append(step)
        return [
            StageCount(name, isinstance(steps[0].stage, Fit), len(steps), sum(store.has(step.key) for step in steps))
            for name, steps in named.items()
        ]

    @property
    def images_unshared(self) -> int:
        """The training images of all epochs if no stage were shared."""
        return sum(training_images(planned.experiment.steps) for planned in self.experiments)

    @property
    def images_shared(self) -> int:
        """The training images of all epochs with every distinct stage run once."""
        return training_images(self.steps.values())


def training_images(steps: Iterable[Step]) -> int:
    """Count the images of the trainings among `steps` over all epochs."""
    return sum(step.stage.recipe.epochs * step.images for step in steps if isinstance(step.stage, Fit))


def plan(sweep: Sweep, opened: Opener = open_data) -> Plan:
    """Compose and prepare every experiment of `sweep`; `opened` opens a data set. Raise UserError naming the first that
    cannot run."""
    if sweep.search:  # one experiment validates the settings that all have in common
        first = proposed(sweep, {key: dimension.first for key, dimension in sweep.search.space.items()})
        every = list(prepare_points(sweep, [first], opened))
    else:
        every = list(prepare_points(sweep, list(points(sweep)), opened))
    experiments = {planned.experiment.key: planned for planned in reversed(every)}  # some may be equal
    for name in ("output", "store", "progress"):
        if len(asked := {str(planned.experiment.config[name]) for planned in every}) > 1:
            raise UserError(f"a sweep has one {name}, this one asks for {', '.join(sorted(asked))}")
    _require_stop_metric(sweep, every)
    chosen = () if sweep.search else tuple(reversed(experiments.values()))
    one = every[0].experiment
    decisions = [planned.experiment.decision for planned in every]
    precisions = dict.fromkeys(decision.why for decision in decisions if decision)
    found = [planned.experiment.layout for planned in every]
    layouts = dict.fromkeys(layout.why for layout in found if layout)
    return Plan(
        sweep,
        chosen,
        one.output,
        one.store,
        one.config["tracking"],
        tuple(precisions),
        tuple(layouts),
        mode_of(one.config["progress"]),
    )


def _require_stop_metric(sweep: Sweep, every: Sequence[Planned]) -> None:
    """Raise UserError where `sweep` stops by held-out images and an experiment holds out none: none would stop."""
    metric = sweep.stop.metric
    if sweep.stop.rule != "none" and metric.startswith("val/"):
        for planned in every:
            if not planned.experiment.data.sizes["val"]:
                where = f"dataset={planned.experiment.data.name} holds out no images"
                raise UserError(f"stop.metric={metric}: {where}, set dataset.validation, or stop.metric=test/top1")


def prepare_points(sweep: Sweep, asked: Sequence[Point], opened: Opener = open_data) -> Iterator[Planned]:
    """Prepare the experiments of `asked`; open each data set once. Raise UserError for an invalid one."""
    for prepare_one in _preparations(sweep, asked, opened):
        yield prepare_one()


def plan_controls(sweep: Sweep, done: Sequence[Planned]) -> Iterator[Planned]:
    """Plan the controls of the finished experiments `done`, except of dense networks. Log and skip a control that is
    impossible (`dense` of a model without a width): the sweep's own experiments are finished."""
    asked = [
        control
        for planned in done
        if planned.experiment.store.read(planned.experiment.steps[-1].key).blueprint
        for control in control_points(Point(planned.label, planned.overrides, planned.controls))
    ]
    for prepare_one in _preparations(sweep, asked):
        try:
            yield prepare_one()
        except UserError as error:
            log.warning("no control of %s", error)


def _preparations(sweep: Sweep, asked: Sequence[Point], opener: Opener = open_data) -> Iterator[Callable[[], Planned]]:
    """Yield for each of `asked` the function that prepares it, or raises UserError with its label."""
    opened: dict[str, ImageData] = {}

    def open_once(config: Mapping[str, Any]) -> ImageData:
        name = json.dumps(config, sort_keys=True)
        if name not in opened:
            opened[name] = opener(config)
        return opened[name]

    machine, resources = machine_overrides(sweep), sweep.resources
    configs = compose_all([merged(machine, point.overrides) for point in asked])
    prepared = partial(prepare, opened=open_once, plans=Plans())
    for point in asked:
        yield partial(_prepare_point, point, configs, prepared, trial_ranks(resources), trial_threads(resources))


def trial_ranks(resources: Resources) -> dict[str, Any]:
    """Return the settings of the ranks that an experiment of the sweep trains on, which are part of its keys."""
    if resources.across_nodes:
        return {"devices": 1, "nodes": resources.workers, "strategy": RAY}
    return {"devices": resources.workers} | ({"strategy": "ddp"} if resources.workers > 1 else {})


def trial_threads(resources: Resources) -> int:
    """Return on how many threads a process of a trial runs, unless trainer.threads says so."""
    return max(1, int(resources.cpus))


def _prepare_point(
    point: Point,
    configs: Iterator[dict[str, Any]],
    prepared: Callable[[Mapping[str, Any]], Experiment],
    ranks: Mapping[str, Any],
    threads: int,
) -> Planned:
    try:
        config = next(configs)
        if (devices := config["trainer"]["devices"]) != 1:
            raise UserError(f"trainer.devices={devices}: a sweep takes resources.workers instead")
        trainer = config["trainer"] | ranks
        if trainer["threads"] is None:
            trainer["threads"] = threads
        experiment = prepared({**config, "trainer": trainer})
        if experiment.machine.accelerator == "cpu":  # else it is the workers' machines that count
            require_sync(experiment.machine, experiment.device)
        assert experiment.steps  # runs the method's `plan`, which raises UserError for an impossible target
    except UserError as error:
        raise UserError(f"{point.label}: {error}" if point.label else str(error)) from error
    return Planned(point.label, point.overrides, experiment, point.controls)


def machine_overrides(sweep: Sweep) -> tuple[str, ...]:
    """Return the overrides that differ from a single run's."""
    on_cpu = () if sweep.resources.gpus else ("trainer.accelerator=cpu",)
    return ("trainer.progress=false", *on_cpu)
