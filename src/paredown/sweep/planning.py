"""What a sweep means before anything runs: its experiments, their stages, and what the store already has."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from paredown.config import compose_all
from paredown.data.images import ImageData
from paredown.errors import UserError
from paredown.execute import finished
from paredown.experiment import Experiment, Step, open_data, prepare
from paredown.plan import Fit
from paredown.store import Store
from paredown.sweep.file import Point, Sweep, control_points, merged, points, proposed

log = logging.getLogger("paredown")


@dataclass(frozen=True)
class Planned:
    """One experiment of a sweep: `label` is what sets it apart, `overrides` all that a person would type."""

    label: str
    overrides: tuple[str, ...]
    experiment: Experiment

    @property
    def control(self) -> str | None:
        """The kind, if it is the control of another."""
        kind: str | None = self.experiment.config["control"]
        return kind

    @property
    def finished(self) -> bool:
        """Whether its result is there."""
        return finished(self.experiment)

    @property
    def missing(self) -> tuple[Step, ...]:
        """The stages still to run: those behind the last one in the store."""
        steps, store = self.experiment.steps, self.experiment.store
        return steps[max((index + 1 for index, step in enumerate(steps) if store.has(step.key)), default=0) :]


@dataclass(frozen=True)
class Level:
    """All stages of one name: how many distinct ones there are, how many the store has, and whether they train."""

    name: str
    trains: bool
    distinct: int
    stored: int


@dataclass(frozen=True)
class Plan:
    """A sweep's experiments, each once; none yet where a search will choose them. `output`, `store` and `tracking`
    are those of every one."""

    sweep: Sweep
    experiments: tuple[Planned, ...]
    output: Path
    store: Store
    tracking: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where the sweep's own records and its report lie."""
        return self.output / "sweeps" / self.sweep.name

    @cached_property
    def steps(self) -> dict[str, Step]:
        """Every distinct stage by its key, parents first."""
        return {step.key: step for planned in self.experiments for step in planned.experiment.steps}

    @property
    def levels(self) -> list[Level]:
        """The distinct stages by name, in the order they come."""
        store = self.store
        named: dict[str, list[Step]] = {}
        for step in self.steps.values():
            named.setdefault(step.stage.name, []).append(step)
        return [
            Level(name, isinstance(steps[0].stage, Fit), len(steps), sum(store.has(step.key) for step in steps))
            for name, steps in named.items()
        ]

    @property
    def images_alone(self) -> int:
        """Training images, over all epochs, if every experiment ran on its own."""
        return sum(work(planned.experiment.steps) for planned in self.experiments)

    @property
    def images_shared(self) -> int:
        """Training images, over all epochs, with every stage run once."""
        return work(self.steps.values())


def work(steps: Iterable[Step]) -> int:
    """Training images over all epochs of `steps`."""
    return sum(step.stage.recipe.epochs * step.data.sizes["train"] for step in steps if isinstance(step.stage, Fit))


def plan(sweep: Sweep) -> Plan:
    """Compose and prepare every experiment of `sweep`. Raises UserError naming the first that cannot run."""
    if sweep.search:  # one of its experiments stands for what all have in common, mistakes among it
        first = proposed(sweep, {key: dimension.first for key, dimension in sweep.search.space.items()})
        every = list(prepared(sweep, [first]))
    else:
        every = list(prepared(sweep, list(points(sweep))))
    experiments = {planned.experiment.key: planned for planned in reversed(every)}  # the command line may merge some
    for name in ("output", "store"):
        if len(asked := {str(planned.experiment.config[name]) for planned in every}) > 1:
            raise UserError(f"a sweep has one {name}, this one asks for {', '.join(sorted(asked))}")
    chosen = () if sweep.search else tuple(reversed(experiments.values()))
    one = every[0].experiment
    return Plan(sweep, chosen, one.output, one.store, one.config["tracking"])


def prepared(sweep: Sweep, asked: Sequence[Point]) -> Iterator[Planned]:
    """The experiments of `asked`, checked; each data set is opened once."""
    for attempt in _attempts(sweep, asked):
        yield attempt()


def controls(sweep: Sweep, done: Sequence[Planned]) -> Iterator[Planned]:
    """The controls of `done`, finished experiments: none of a dense network. What else cannot be made (`dense` of a
    model without a width) is said and left out: the sweep's own experiments are done."""
    asked = [
        control
        for planned in done
        if planned.experiment.store.read(planned.experiment.steps[-1].key).blueprint
        for control in control_points(sweep, Point(planned.label, planned.overrides))
    ]
    for attempt in _attempts(sweep, asked):
        try:
            yield attempt()
        except UserError as error:
            log.warning("no control of %s", error)


def _attempts(sweep: Sweep, asked: Sequence[Point]) -> Iterator[Callable[[], Planned]]:
    """For each of `asked` what prepares it, or raises UserError with its label."""
    opened: dict[str, ImageData] = {}

    def open_once(config: Mapping[str, Any]) -> ImageData:
        name = json.dumps(config, sort_keys=True)
        if name not in opened:
            opened[name] = open_data(config)
        return opened[name]

    machine = machine_words(sweep)
    configs = compose_all([merged(machine, point.overrides) for point in asked])
    for point in asked:
        yield partial(_prepared, point, configs, open_once)


def _prepared(
    point: Point, configs: Iterator[dict[str, Any]], opened: Callable[[Mapping[str, Any]], ImageData]
) -> Planned:
    try:
        experiment = prepare(next(configs), opened)
        if experiment.machine.devices > 1:
            raise UserError(f"trainer.devices={experiment.machine.devices}: a sweep takes resources.workers instead")
        assert experiment.steps  # the method's plan is made here, and refused where it cannot be
    except UserError as error:
        raise UserError(f"{point.label}: {error}" if point.label else str(error)) from error
    return Planned(point.label, point.overrides, experiment)


def machine_words(sweep: Sweep) -> tuple[str, ...]:
    """How an experiment of a sweep differs from one alone, in words that no key depends on."""
    on_cpu = () if sweep.resources.gpus else ("trainer.accelerator=cpu",)
    return ("trainer.progress=false", *on_cpu)
