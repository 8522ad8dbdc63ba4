"""An experiment before anything is trained: everything chosen, checked and named by its key."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.files import sha256
from paredown.core.keys import digest, identified, rank_regime, result_key, root_key, stage_key
from paredown.core.network import Network
from paredown.core.plan import Fit, Method, Outcome, Stage
from paredown.core.recipe import Precision, Recipe
from paredown.core.target import Target
from paredown.core.unchanged import declare_unchanged
from paredown.cost import Cost, count
from paredown.cost.latency import LatencySettings
from paredown.data.images import ImageData
from paredown.experiment.accuracy import accuracy
from paredown.experiment.budget import Places, TrainingBudget, shared, supplied_images
from paredown.experiment.controls import Control
from paredown.methods.dense import Dense
from paredown.models.head import find_classifier, require_classes, require_classifier, require_logits_in_training
from paredown.models.pretrained import load_pretrained
from paredown.runtime.units import require_traceable
from paredown.store.states import Store
from paredown.training.decisions import Decision, begin
from paredown.training.machine import Machine, device_of

NEW_HEAD = "+head"


@dataclass(frozen=True)
class Step:
    """One stage of an experiment, the data set it runs on, its key and the key of the state it starts from."""

    stage: Stage
    data: ImageData
    parent: str
    key: str

    @property
    def seed(self) -> int:
        """The stage's seed, from its key: skipping an earlier stage changes nothing here."""
        return int(self.key[:12], 16)

    @property
    def images(self) -> int:
        """How many images an epoch of its training has: those that a hook supplies, else the training images."""
        if not isinstance(self.stage, Fit):
            return 0
        supplied = supplied_images(self.stage, self.data)
        return self.data.sizes["train"] if supplied is None else supplied


@dataclass(frozen=True)
class Planned:
    """The stages of a plan with the data set of each, and the method whose plan it is."""

    places: Places
    method: Method

    @cached_property
    def identities(self) -> list[Any]:
        """The plain data that identifies each stage."""
        return [identified(stage) for stage, _ in self.places]


@dataclass(frozen=True)
class Plans:
    """The plans that experiments of a sweep share, and the methods that were checked on a network and images."""

    made: dict[Any, Planned] = field(default_factory=dict)
    checked: set[Any] = field(default_factory=set)


@dataclass(frozen=True)
class Experiment:
    """All that `run.walk.carry_out` needs. `architecture` includes the classes and channels of the data set."""

    config: Mapping[str, Any]
    architecture: dict[str, Any]
    method: Method
    target: Target | None
    recipe: Recipe
    data: ImageData
    source: ImageData  # where the plan is made: `data` unless the experiment is a transfer
    seed: int
    machine: Machine
    latency: LatencySettings
    store: Store
    output: Path
    decision: Decision[Precision] | None = None  # what recipe.precision=auto became
    layout: Decision[bool] | None = None  # what recipe.channels_last=auto became
    budget: TrainingBudget = field(default_factory=TrainingBudget)
    plans: Plans = field(default_factory=Plans, repr=False, compare=False)

    def begun(self) -> Experiment:
        """Return this experiment in the precision and layout that its output begins with, or began: they are kept
        there, so that other machines go on in the same. Raise UserError before that where there is no plan."""
        _ = self.steps
        recipe = self.recipe
        if self.decision is not None:
            recipe = replace(recipe, precision=begin(self.decision, self.store))
        if self.layout is not None:
            recipe = replace(recipe, channels_last=begin(self.layout, self.store))
        return self if recipe == self.recipe else replace(self, recipe=recipe, decision=None, layout=None)

    def dense(self) -> Network:
        """Return a fresh copy of the dense network at its start, the same for every method under one seed."""
        return copy.deepcopy(self._dense_for(self.data))

    def _dense_for(self, data: ImageData) -> Network:
        """Return the dense network for images of `data`, to be read only: it is built once."""
        architecture = self.architecture | fitted(self.architecture, data)
        weights = self.config["model"]["weights"]
        seed = int(digest([self._root, list(data.input_shape), self.seed])[:12], 16)
        return _dense(_Frozen(architecture), data.input_shape, data.num_classes, weights, self._pretrained, seed)

    @property
    def device(self) -> torch.device:
        """Where edits and measurements run."""
        return device_of(self.machine.accelerator)

    @cached_property
    def dense_cost(self) -> Cost:
        """What the dense network costs. UserError where the model cannot take the data set's images."""
        network = self._dense_for(self.data)
        return count(network.module, network.input_shape)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The plan with its keys; on a transfer, edits see the source's images and the last fit the target's."""
        return self._keyed(self._planned)

    @property
    def _planned(self) -> Planned:
        """The checked plan, made once for all experiments of a sweep that differ in what it does not depend on, as the
        seed: `Method.plan` looks at the shapes of the network alone."""
        start = (self.architecture, self._pretrained, self.config["model"]["weights"], self.config["deploy"])
        checked = (type(self.method), repr((self.method, start)), self.data, self.source)
        if checked not in self.plans.checked:
            self._check()
            self.plans.checked.add(checked)
        place = (*checked, repr((self.target, self.recipe, self.budget, self.config["transfer"])))
        if place not in self.plans.made:
            self.plans.made[place] = Planned(self._checked_places(), self.method)
        return self.plans.made[place]

    def _check(self) -> None:
        """Raise UserError for a method that the network or the images cannot serve, whatever the recipe."""
        network = self._dense_for(self.source)
        if self.config["deploy"] == "auto":
            require_traceable(network.module)
        self.method.check(network, self.source)

    def _checked_places(self) -> Places:
        """Return the stages and the data set of each. Raise UserError where one cannot be carried out."""
        places = self._within_budget(self.method, self._places)
        if any(isinstance(stage, Fit) for stage, _ in places):
            network = self._dense_for(self.source)
            require_logits_in_training(network.module, network.input_shape)
        for stage, data in places:
            if isinstance(stage, Fit):
                for hook in stage.hooks:
                    hook.check(stage.recipe, data)
        return places

    def _within_budget(self, method: Method, plan: Callable[[Method, Recipe], Places]) -> Places:
        """Return the plan of `method` by the recipe, or as long as the budget says."""
        if not self.budget:
            return plan(method, self.recipe)
        return shared(self.budget, method, self.recipe, self.data.sizes["train"], plan)

    def _places(self, method: Method, recipe: Recipe) -> Places:
        """Return the stages of `method` and the data set of each."""
        stages = method.plan(self.target, self._dense_for(self.source), recipe)
        if self.source is self.data:
            return [(stage, self.data) for stage in stages]
        mode = self.config["transfer"]["mode"]
        self._require_transfer(method, mode)
        if mode == "finetune":
            last = next((stage for stage in reversed(stages) if isinstance(stage, Fit)), None)
            if last is None:
                raise UserError("transfer.mode=finetune repeats the last training, and this plan has none")
            return [(stage, self.source) for stage in stages] + [(replace(last, name="transfer"), self.data)]
        return [(stage, self.data if isinstance(stage, Fit) else self.source) for stage in stages]

    def _require_transfer(self, method: Method, mode: str) -> None:
        """Raise UserError where nothing of the other data set decides which weights stay of the trained network."""
        if mode in method.transfers:
            return
        name, known = self.names["method"], " or ".join(f"transfer.mode={each}" for each in method.transfers)
        raise UserError(
            f"transfer.mode={mode}: {name} decides in a training which weights stay, not before it on another data set;"
            f" {f'take {known}, or ' if known else ''}leave out dataset@transfer.dataset="
        )

    @cached_property
    def dense_key(self) -> str:
        """The key of the dense network trained by the same recipe: the reference for gains, where it exists."""

        def plan(method: Method, recipe: Recipe) -> Places:
            return [(stage, self.data) for stage in method.plan(None, self._dense_for(self.data), recipe)]

        dense = Dense()
        return self._keyed(Planned(self._within_budget(dense, plan), dense))[-1].key

    def images_seen(self, step: Step) -> int:
        """Return how many images the finished training of `step` has seen, each as often as it was."""
        return step.images * len(self.store.record(step.key).history)

    def outcomes(self) -> list[Outcome]:
        """Return the outcome of every stage, once all of them are finished."""
        records = [self.store.record(step.key) for step in self.steps]
        return [
            Outcome(
                step.stage,
                record.history,
                record.notes,
                partial(self.store.read, step.key),
                partial(self.accuracy, step.key, step.data),
            )
            for step, record in zip(self.steps, records, strict=True)
        ]

    def accuracy(self, key: str, data: ImageData | None = None) -> dict[str, float]:
        """Return loss, top1 and top5 of the deployed network of state `key` on the test images of `data` (None: of the
        experiment), in fp32."""
        return accuracy(self.store, key, data or self.data, self.device, self.machine.eval_batch_size)

    def earlier(self, number: int) -> Callable[[str | None], Network]:
        """Return what gives stage `number` (0-based) of the plan the networks of the stages before it, by name."""

        def network(name: str | None) -> Network:
            if name is None:
                return self.dense()
            before = {step.stage.name: step.key for step in self.steps[:number]}  # the latest of equal names
            if name not in before:
                there = f"there are {', '.join(before)}" if before else "it is the first"
                raise UserError(f"no stage {name!r} before {self.steps[number].stage.name!r}: {there}")
            return self.store.read(before[name])

        return network

    def _keyed(self, planned: Planned) -> tuple[Step, ...]:
        parent, steps = self._root, []
        regime = rank_regime(self.machine.ranks, self.machine.sync_batchnorm)
        for (stage, data), identity in zip(planned.places, planned.identities, strict=True):
            key = stage_key(identity, parent, self.seed, data.key, regime if isinstance(stage, Fit) else None)
            steps.append(Step(stage, data, parent, key))
            parent = key
        return tuple(steps)

    @cached_property
    def _root(self) -> str:
        arguments = {name: value for name, value in self.architecture.items() if name != "_target_"}
        return root_key(blueprint.builder(self.architecture), arguments, self.data.input_shape, self._pretrained)

    @property
    def _pretrained(self) -> str | None:
        """The SHA-256 of the pretrained weights, and NEW_HEAD where the classifier is none of theirs; None for random
        weights."""
        weights = self.config["model"]["weights"]
        new = NEW_HEAD if self.config["model"].get("head") == "new" else ""
        return f"{sha256(Path(weights))}{new}" if weights else None

    @property
    def settled(self) -> dict[str, Any]:
        """The configuration with nothing left for a machine to choose: what is recorded, and what a trial gets."""
        settled = {name: getattr(self.recipe, name) for name in ("precision", "channels_last")}
        return {**self.config, "recipe": {**self.config["recipe"], **settled}}

    @property
    def names(self) -> dict[str, str]:
        """The Hydra choices people call it by: method, model, dataset, recipe, debug."""
        return {group: str(choice) for group, choice in self.config["names"].items()}

    @cached_property
    def key(self) -> str:
        """The key of the result: the last state, how it is deployed and evaluated, and what it is a control of."""
        control_of = self.method.of if isinstance(self.method, Control) else None
        return result_key(self.steps[-1].key, self.data.key, self.latency, self.config["deploy"], control_of)

    @property
    def title(self) -> str:
        """The name of its run in MLflow, whose list cuts names: what differs within a sweep comes first."""
        return " ".join([self.names["method"], *self._apart, self.names["model"], self.names["dataset"]])

    @property
    def _apart(self) -> list[str]:
        target = [str(self.target)] if self.target else []
        control_of = [f"control={self.method.kind}"] if isinstance(self.method, Control) else []
        return [*target, *control_of, f"seed={self.seed}"]

    @property
    def folder(self) -> Path:
        """Where the result, its figures and its records are kept."""
        words = [*(self.names[part] for part in ("method", "model", "dataset")), *self._apart]
        return self.output / "experiments" / f"{'-'.join(words)}-{self.key[:8]}"


def fitted(architecture: Mapping[str, Any], data: ImageData) -> dict[str, Any]:
    """Return the arguments of a model that the images of `data` decide: classes, channels, size."""
    channels, height, width = data.input_shape
    decided = {"num_classes": data.num_classes, "in_channels": channels, "image_size": [height, width]}
    taken = blueprint.parameters(architecture)
    return {name: value for name, value in decided.items() if name in taken}


class _Frozen(dict[str, Any]):
    """Plain configuration data that can be a key of a cache."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(repr(sorted(self.items())))


@lru_cache(maxsize=2)  # a transfer has two; more would hold the networks of a whole sweep
def _dense(
    architecture: _Frozen,
    shape: tuple[int, int, int],
    classes: int,
    weights: str | None,
    content: str | None,
    seed: int,
) -> Network:
    """Return the dense network with the `weights` in a file whose `content` is `_pretrained`, None: drawn by `seed`.
    Raise UserError where it gives no logits of that many `classes`."""
    torch.manual_seed(seed)
    network = blueprint.create(architecture, shape)
    require_classes(network.module, shape, classes)
    if weights and content:
        new = content.endswith(NEW_HEAD)
        classifier = (require_classifier if new else find_classifier)(network.module, shape)
        load_pretrained(network.module, weights, classifier, new_head=new)
        network.pretrained = True
    return declare_unchanged(network)
