"""Preparation of experiments: from a composed configuration to checked values."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch

from paredown.core import blueprint
from paredown.core.config import TYPED, ControlKind
from paredown.core.constraints import (
    Before,
    Checked,
    Count,
    NonNegative,
    NonNegativeInt,
    Number,
    check_arguments,
    make,
)
from paredown.core.errors import UserError, nearest
from paredown.core.files import sha256, typed_path
from paredown.core.legacy import current_target
from paredown.core.plan import Method
from paredown.core.progress import Mode, mode_of
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.requests import Listed
from paredown.core.source import find_source, require_digest
from paredown.core.target import Target, Timing
from paredown.core.target_metrics import TARGETS
from paredown.core.trust import TARGET, Name, absolute, resolve, trust
from paredown.cost.latency import LatencySettings
from paredown.data.images import ImageData
from paredown.experiment.budget import TrainingBudget
from paredown.experiment.controls import control, epochs_of
from paredown.experiment.experiment import Experiment, Plans, fitted
from paredown.models.pretrained import preprocessing, weights_file
from paredown.store.states import Store, open_store
from paredown.training.machine import Machine, check_precision, device_of, require_accelerator
from paredown.training.memory_layout import decide_layout
from paredown.training.precision import decide
from paredown.training.timed_step import Step

METHODS, DATA = "paredown.methods", "paredown.data"  # packages of the project's own methods and data sets
log = logging.getLogger("paredown")
Opener = Callable[[Mapping[str, Any]], ImageData]
OF_WEIGHTS = ("weights", "weights_digest", "head", "preprocessing", "weight_decay")  # what is not the architecture's
NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True)
class Transfer(Checked):
    """The other data set that a plan is made on (None: no transfer), and what is taken over from it."""

    section: ClassVar[str] = "transfer"

    mode: Literal["mask_only", "finetune"] = "mask_only"
    dataset: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Decay(Checked):
    """The weight decay that a model is trained with where its recipe takes the model's."""

    section: ClassVar[str] = "model"

    weight_decay: NonNegative | None = None


@dataclass(frozen=True)
class Tracking(Checked):
    """The MLflow server or database of the runs ("off": none), and the experiment that they belong to."""

    section: ClassVar[str] = "tracking"

    uri: str
    experiment: str


@dataclass(frozen=True)
class Settings(Checked):
    """The top level of a configuration (conf/config.yaml)."""

    method: Mapping[str, Any]
    model: Mapping[str, Any]
    dataset: Mapping[str, Any]
    recipe: Mapping[str, Any]
    trainer: Machine
    tracking: Tracking
    latency: LatencySettings
    transfer: Transfer
    output: str
    seed: NonNegativeInt
    budget: TrainingBudget = field(default_factory=TrainingBudget)
    seeds: Count = 1
    store: str | None = None
    reproduce: str | None = None
    control: ControlKind | None = None
    deploy: Literal["plain", "auto"] = "plain"
    sparsity: Number | None = None
    speed_up: Number | None = None
    latency_speed_up: Number | None = None
    trust: Annotated[tuple[Name, ...], Listed] = ()
    progress: Annotated[Mode, Before(mode_of)] = "auto"


def check(config: Mapping[str, Any]) -> Settings:
    """Return the checked top level of a composed configuration. Raise UserError naming every wrong value."""
    return make(Settings, {item.name: config[item.name] for item in fields(Settings) if item.name in config}, "")


def open_data(config: Mapping[str, Any]) -> ImageData:
    """Return the data set of conf/dataset/; its `prepare` opens it. Raise UserError naming every wrong setting."""
    kind = _subclass(config, "dataset", ImageData, DATA)
    arguments = {name: value for name, value in config.items() if name != TARGET}
    constructors = [vars(base)["__init__"] for base in kind.__mro__ if "__init__" in vars(base) and base is not object]
    _check_names(kind.__name__, constructors, arguments, "dataset")
    data: ImageData = kind(**arguments)
    return data


def prepare(config: Mapping[str, Any], opened: Opener = open_data, plans: Plans | None = None) -> Experiment:
    """Make the experiment of a composed configuration (plain data); a sweep gives an `opened` that opens each data set
    once, and the `plans` that its experiments share. Raise UserError for whatever is wrong with it."""
    settings = check(config := _timed(config))
    trust(settings.trust)
    machine = settings.trainer
    require_accelerator(machine)
    output, store = _storage(settings)
    asked = check_precision(config["recipe"].get("precision"), device_of(machine.accelerator))
    is_timed = config["recipe"].get("channels_last") == "auto"
    settled = {"precision": "32" if asked == "auto" else asked} | ({"channels_last": True} if is_timed else {})
    recipe = make(Recipe, config["recipe"] | settled, "recipe")
    method, target = _method(config), _target(settings)
    _require_known(target, method, config)
    _require_trained(method, config.get(TYPED, ()))
    config = _located(_preprocessed(config))
    data = opened(config["dataset"])
    source = opened(config["transfer"]["dataset"]) if settings.transfer.dataset else data
    data.prepare()
    source.prepare()
    config = {
        **config,
        "seed": settings.seed,
        "model": config["model"] | _weights(config["model"]),
        "trust": [absolute(name) for name in settings.trust],
    }
    architecture = _architecture(config["model"], data, source)
    step = Step.of(architecture, data.input_shape, max(1, recipe.batch_size // machine.ranks), recipe.channels_last)
    on = (device_of(machine.accelerator), machine.threads, store)
    decision = None if asked != "auto" else decide(step, *on)  # by the dense network: one for all methods
    recipe = recipe if decision is None else replace(recipe, precision=decision.value)
    layout = decide_layout(step, recipe.precision, *on) if is_timed else None
    recipe = recipe if layout is None else replace(recipe, channels_last=layout.value)
    experiment = Experiment(
        config=config,
        architecture=architecture,
        method=method,
        target=target,
        recipe=recipe,
        data=data,
        source=source,
        seed=settings.seed,
        machine=machine,
        latency=settings.latency,
        store=store,
        output=output,
        decision=decision,
        layout=layout,
        budget=settings.budget,
        plans=Plans() if plans is None else plans,
    )
    return _controlled(experiment) if settings.control else experiment


def _timed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `config` with the number of threads of the timing where this decides how many channels stay."""
    if config.get("latency_speed_up") is None or check(config).latency.threads is not None:
        return config
    threads = check(config).trainer.threads or torch.get_num_threads()
    return {**config, "latency": {**config["latency"], "threads": threads}}


def _preprocessed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` with the images scaled and normalised as those were that the model's weights were trained with,
    as far as that is known and the data set is of colours. A size that is set, and a TYPED mean or std, stay."""
    facts, typed = preprocessing(config["model"]), config.get(TYPED, ())
    sets = {"dataset": config["dataset"], "transfer.dataset": config["transfer"].get("dataset")}
    for section, dataset in sets.items():
        mean = (dataset or {}).get("mean")
        if not facts or not isinstance(mean, list) or len(mean) != len(facts["mean"]):
            continue
        decided = {name: facts[name] for name in ("mean", "std") if f"{section}.{name}" not in typed}
        decided |= {"size": facts["size"]} if "size" in dataset and dataset["size"] is None else {}
        if dataset != (found := {**dataset, **decided}):
            sets[section] = found
            listed = ", ".join(f"{name} {value}" for name, value in decided.items())
            log.info(
                "model.preprocessing=weights: images of %s with %s, as the weights were trained with",
                dataset["name"], listed,
            )  # fmt: skip
    others = {name: value for name, value in config.items() if name != TYPED}
    transfer = {**config["transfer"], "dataset": sets["transfer.dataset"]}
    return others | {"dataset": sets["dataset"], "transfer": transfer}


def _located(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return `config` with the file of the model's source by its absolute path, and the digest of its text. Raise
    UserError where another digest is recorded."""
    model = config["model"]
    if "source" not in model:
        return dict(config)
    source = find_source(model["source"], "model.source", model.get("digest"))
    require_digest(source, now := source.digest, model.get("digest"), "model.source")
    return {**config, "model": {**model, "source": str(source), "digest": now}}


def _weights(model: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the file of the model's weights, None for random ones, and the SHA-256 of its content. Raise UserError
    where another is recorded."""
    if (found := weights_file(model)) is None:
        return {"weights": None}
    now, recorded = sha256(Path(found)), model.get("weights_digest")
    if recorded not in (None, now):
        raise UserError(
            f"model.weights={found} has changed since (SHA-256 {now}, not {recorded}): "
            "put the file back, or train again"
        )
    return {"weights": found, "weights_digest": now}


def _storage(settings: Settings) -> tuple[Path, Store]:
    if "://" in settings.output:
        raise UserError(
            f"output={settings.output} is no folder: name it as store=, and a folder of this machine as output="
        )
    output = typed_path(settings.output).resolve()
    return output, open_store(output / "store", settings.store)


def _method(config: Mapping[str, Any]) -> Method:
    kind = _subclass(config["method"], "method", Method, METHODS)
    method: Method = make(kind, {k: v for k, v in config["method"].items() if k != TARGET}, "method")
    return method


def _target(settings: Settings) -> Target | None:
    """Return the one target asked for. Raise UserError for several."""
    values = {name: getattr(settings, name) for name in TARGETS}
    asked = [name for name, value in values.items() if value is not None]
    if len(asked) > 1:
        raise UserError(f"{' and '.join(asked)} are both set: one experiment has one target")
    if asked == ["latency_speed_up"]:
        device = str(device_of(settings.trainer.accelerator))
        timing = Timing(settings.latency.batch, settings.latency.threads, device)
        return Target("latency_speed_up", values["latency_speed_up"], timing)
    return Target(asked[0], values[asked[0]]) if asked else None


def _require_known(target: Target | None, method: Method, config: Mapping[str, Any]) -> None:
    """Raise UserError for a target that `method` has no plan for."""
    if target and target.quantity not in method.targets:
        name = str(config["method"][TARGET]).rpartition(".")[2]
        raise UserError(
            f"method {name} cannot aim at {target}: it takes {' or '.join(f'{t}=' for t in method.targets)}"
        )


def _require_trained(method: Method, typed: Collection[str]) -> None:
    """Raise UserError for a `typed` setting of a training that `method` leaves out."""
    for part, off in method.untrained().items():
        for item in fields(RecipeOverrides):
            name = f"method.{part}.{item.name}"
            if name in typed and getattr(getattr(method, part), item.name) is not None and not off.startswith(name):
                what = "nothing is finetuned" if part == "finetune" else "that training is left out"
                raise UserError(f"{name} is set, but {what} with {off}")


def _architecture(model: Mapping[str, Any], data: ImageData, source: ImageData) -> dict[str, Any]:
    """Return the model's configuration with the arguments that the images decide."""
    builder = blueprint.builder(model, "model")
    taken = set(inspect.signature(builder).parameters)
    arguments = {k: v for k, v in model.items() if k in taken or k not in (TARGET, *OF_WEIGHTS)}
    make(Decay, {"weight_decay": model.get("weight_decay")}, "model")
    _check_names(builder.__name__, [builder], arguments | fitted(model, data), "model")
    architecture = {TARGET: current_target(model[TARGET])} | check_arguments(builder, arguments, "model")
    architecture |= (wanted := fitted(architecture, data))
    if (found := fitted(architecture, source)) != wanted:
        name = next(name for name in wanted if found[name] != wanted[name])
        more = ": take as many with dataset.classes=N" if name == "num_classes" else ""
        raise UserError(f"no transfer from {name} {found[name]} to {wanted[name]}{more}")
    return architecture


def _controlled(point: Experiment) -> Experiment:
    """Return the control of a finished experiment: what it costs is known when its last state is stored."""
    kind, last = point.config["control"], point.steps[-1].key
    if not point.store.has(last):
        raise UserError(f"control={kind} stands beside a finished experiment: run the same without control= first")
    if deleted := [step.stage.name for step in point.steps if not point.store.has(step.key)]:
        raise UserError(f"control={kind}: the state of {deleted[0]!r}, which says how long it trained, was deleted")
    if point.config["model"].get("weights"):
        raise UserError(f"control={kind}: the images that model.weights were trained on cannot be given to a control")
    epochs = epochs_of(sum(map(point.images_seen, point.steps)), point.data.sizes["train"])
    method = control(kind, point.key, point.folder.name, point.store.read(last), point.dense(), epochs, point.target)
    return replace(point, method=method, source=point.data, budget=TrainingBudget(), plans=Plans())


def _subclass(config: Mapping[str, Any], section: str, kind: type[Any], room: str) -> type[Any]:
    """Return the class that `_target_` names. Raise UserError unless it is a subclass of `kind` that can be made."""
    found = resolve(config, section, room)
    if not isinstance(found, type) or not issubclass(found, kind) or inspect.isabstract(found):
        raise UserError(f"{section}.{TARGET}={config[TARGET]} is no concrete subclass of {kind.__name__}")
    return found


def _check_names(
    what: str, functions: Sequence[Callable[..., Any]], arguments: Mapping[str, Any], section: str
) -> None:
    """Raise UserError for an argument that none of `functions` has, and for one without a value."""
    every = [item for function in functions for item in inspect.signature(function).parameters.values()]
    known = {item.name: item for item in every if item.kind in NAMED and item.name != "self"}
    if unknown := [str(name) for name in arguments if name not in known]:
        raise UserError(f"{section}.{unknown[0]} is no setting of {what}: {nearest(unknown[0], known)}")
    if missing := [name for name, item in known.items() if item.default is item.empty and name not in arguments]:
        raise UserError(f"{section}.{missing[0]} is not set")
