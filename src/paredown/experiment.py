"""An experiment before anything is trained: everything chosen, checked and named by its key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate

from paredown import blueprint
from paredown.config import ControlKind, make
from paredown.control import Control, control
from paredown.cost import Cost, count, latency
from paredown.data.images import ImageData
from paredown.errors import UserError, nearest
from paredown.methods.dense import Dense
from paredown.models.weights import load_pretrained, weights_file
from paredown.plan import Fit, Method, Network, Outcome, Recipe, Stage, Target, digest, stage_key
from paredown.store import Store, open_store
from paredown.training.machine import Machine, device_of, resolve_precision

TRANSFER_MODES = ("mask_only", "finetune")
DEPLOYMENTS = ("plain", "auto")


@dataclass(frozen=True)
class Step:
    """One stage of an experiment, the data set it runs on, its key and the key of the state it starts from."""

    stage: Stage
    data: ImageData
    parent: str
    key: str

    @property
    def seed(self) -> int:
        """The stage's own seed, from its key: skipping an earlier stage changes nothing here."""
        return int(self.key[:12], 16)


@dataclass(frozen=True)
class Experiment:
    """What `execute.carry_out` needs. `architecture` is complete, with the classes and channels of the data set."""

    config: Mapping[str, Any]
    architecture: dict[str, Any]
    method: Method
    target: Target | None
    recipe: Recipe
    data: ImageData
    source: ImageData  # where the plan is made: `data` unless the experiment is a transfer
    seed: int
    machine: Machine
    store: Store
    output: Path

    def dense(self) -> Network:
        """The dense network at its start: the same for every method under one seed, pretrained if so configured."""
        return self._dense_for(self.data)

    def _dense_for(self, data: ImageData) -> Network:
        architecture = self.architecture | _fitted(self.architecture, data)
        torch.manual_seed(int(digest([architecture, self.seed])[:12], 16))
        network = blueprint.create(architecture, data.input_shape)
        if weights := self.config["model"]["weights"]:
            load_pretrained(network.module, weights)
            network.pretrained = True
        return network

    @property
    def device(self) -> torch.device:
        """Where edits and measurements run."""
        return device_of(self.machine.accelerator)

    @cached_property
    def dense_cost(self) -> Cost:
        """What the dense network costs. UserError where the model cannot take the data set's images."""
        network = self.dense()
        return count(network.module, network.input_shape)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The plan with its keys; on a transfer, edits see the source's images and the last fit the target's."""
        planned = self._dense_for(self.source)
        self.method.check(planned, self.source)
        stages = self.method.plan(self.target, planned, self.recipe)
        if self.source is self.data:
            places = [(stage, self.data) for stage in stages]
        elif self.config["transfer"]["mode"] == "finetune":
            last = next((stage for stage in reversed(stages) if isinstance(stage, Fit)), None)
            if last is None:
                raise UserError("transfer.mode=finetune repeats the last training, and this plan has none")
            places = [(stage, self.source) for stage in stages] + [(replace(last, name="transfer"), self.data)]
        else:
            places = [(stage, self.data if isinstance(stage, Fit) else self.source) for stage in stages]
        return self._keyed(places)

    @property
    def dense_key(self) -> str:
        """The key of the dense network trained by the same recipe: the reference for gains, where it exists."""
        return self._keyed([(stage, self.data) for stage in Dense().plan(None, self.dense(), self.recipe)])[-1].key

    def outcomes(self) -> list[Outcome]:
        """What every stage gave, once all of them are finished."""
        records = [self.store.record(step.key) for step in self.steps]
        return [
            Outcome(step.stage, record.history, record.notes, partial(self.store.read, step.key))
            for step, record in zip(self.steps, records, strict=True)
        ]

    def _keyed(self, places: list[tuple[Stage, ImageData]]) -> tuple[Step, ...]:
        parent, steps = self._root, []
        for stage, data in places:
            key = stage_key(stage, parent, self.seed, data.key)
            steps.append(Step(stage, data, parent, key))
            parent = key
        return tuple(steps)

    @cached_property
    def _root(self) -> str:
        weights = self.config["model"]["weights"]
        pretrained = hashlib.sha256(Path(weights).read_bytes()).hexdigest() if weights else None
        return digest([self.architecture, self.data.input_shape, pretrained])

    @property
    def settled(self) -> dict[str, Any]:
        """The configuration with nothing left for a machine to choose: what is recorded, and what a trial gets."""
        return {**self.config, "recipe": {**self.config["recipe"], "precision": self.recipe.precision}}

    @property
    def names(self) -> dict[str, str]:
        """The Hydra choices people call it by: method, model, dataset, recipe, debug."""
        return {group: str(choice) for group, choice in self.config["names"].items()}

    @property
    def key(self) -> str:
        """Names the result: the last state, how it ships and is evaluated, and what it stands beside if a control."""
        execution = [] if self.config["deploy"] == "plain" else [self.config["deploy"]]
        beside = [self.method.of] if isinstance(self.method, Control) else []
        return digest([self.steps[-1].key, self.data.key, self.config["latency"], *execution, *beside])

    @property
    def folder(self) -> Path:
        """Where the result, its figures and its records are kept."""
        words = [
            *(self.names[part] for part in ("method", "model", "dataset")),
            *([str(self.target)] if self.target else []),
            *([f"control={self.method.kind}"] if isinstance(self.method, Control) else []),
            f"seed={self.seed}",
        ]
        return self.output / "experiments" / f"{'-'.join(words)}-{self.key[:8]}"


def open_data(config: Mapping[str, Any]) -> ImageData:
    """The data set of conf/dataset/, opened. Raises UserError that says how to get what is missing."""
    try:
        data: ImageData = instantiate(config, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from error
        raise
    data.prepare()
    return data


def prepare(config: Mapping[str, Any], opened: Callable[[Mapping[str, Any]], ImageData] = open_data) -> Experiment:
    """The experiment of a composed configuration (plain data); a sweep gives an `opened` that opens each data set once.

    Raises UserError for whatever is wrong with it.
    """
    if "://" in str(config["output"]):
        raise UserError(
            f"output={config['output']} is no folder: name it as store=, and a folder of this machine as output="
        )
    output = Path(config["output"]).expanduser().resolve()
    store = open_store(output / "store", config["store"])
    target = _target(config)
    method: Method = make(get_class(config["method"]["_target_"]), _arguments(config["method"]), "method")
    machine = make(Machine, config["trainer"], "trainer")
    _check_machine(machine)
    precision = resolve_precision(config["recipe"]["precision"], device_of(machine.accelerator))
    recipe = make(Recipe, config["recipe"] | {"precision": precision}, "recipe")
    latency.check(**config["latency"])
    if config["deploy"] not in DEPLOYMENTS:
        raise UserError(f"deploy={config['deploy']!r}: {nearest(str(config['deploy']), DEPLOYMENTS)}")
    data = opened(config["dataset"])
    source = data
    if other := config["transfer"].get("dataset"):
        if config["transfer"]["mode"] not in TRANSFER_MODES:
            raise UserError(f"transfer.mode={config['transfer']['mode']!r} is none of {', '.join(TRANSFER_MODES)}")
        source = opened(other)
    config = {**config, "model": config["model"] | {"weights": weights_file(config["model"])}}
    architecture = {k: v for k, v in config["model"].items() if k not in ("weights", "weight_decay")}
    architecture |= (fitted := _fitted(architecture, data))
    if (other_fitted := _fitted(architecture, source)) != fitted:
        raise UserError(_no_transfer(other_fitted, fitted))
    chosen = (config, architecture, method, target, recipe, data, source, config["seed"], machine, store, output)
    return _controlled(Experiment(*chosen)) if config["control"] else Experiment(*chosen)


def _controlled(point: Experiment) -> Experiment:
    """The control of a finished experiment. What it costs is known when its last state is there, not before."""
    kind, last = point.config["control"], point.steps[-1].key
    if kind not in get_args(ControlKind):
        raise UserError(f"no control {kind!r}: {nearest(kind, get_args(ControlKind))}")
    if not point.store.has(last):
        raise UserError(f"control={kind} stands beside a finished experiment: run the same without control= first")
    plan = [step.stage for step in point.steps]
    method = control(kind, point.key, point.folder.name, point.store.read(last), point.dense(), plan)
    return replace(point, method=method, source=point.data)


def _target(config: Mapping[str, Any]) -> Target | None:
    given = {name: config[name] for name in ("sparsity", "speed_up") if config[name] is not None}
    if len(given) > 1:
        raise UserError("sparsity and speed_up are both set: one experiment has one target")
    for quantity, value in given.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{quantity}={value!r} is not a number")
        return Target(quantity, float(value))  # type: ignore[arg-type]
    return None


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "_target_"}


def _fitted(architecture: Mapping[str, Any], data: ImageData) -> dict[str, Any]:
    """What the data set decides of a model: those of its arguments that are properties of the images."""
    channels, height, width = data.input_shape
    decided = {"num_classes": data.num_classes, "in_channels": channels, "image_size": [height, width]}
    taken = blueprint.parameters(architecture)
    return {name: value for name, value in decided.items() if name in taken}


def _no_transfer(source: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    name = next(name for name in data if source[name] != data[name])
    more = ": take as many with dataset.classes=N" if name == "num_classes" else ""
    return f"no transfer from {name} {source[name]} to {data[name]}{more}"


def _check_machine(machine: Machine) -> None:
    gpus = torch.cuda.device_count()
    wants_gpu = machine.accelerator in ("gpu", "cuda")
    if wants_gpu and not gpus:
        raise UserError("trainer.accelerator=gpu, but this machine has no GPU that torch can use")
    if machine.devices < 1 or (gpus and machine.accelerator != "cpu" and machine.devices > gpus):
        raise UserError(f"trainer.devices={machine.devices}: this machine has {gpus or 'no'} GPUs (at least 1 device)")
    if machine.threads is not None and machine.threads < 1:
        raise UserError(f"trainer.threads={machine.threads} is not at least 1")
