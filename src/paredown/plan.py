"""What a method says: the stages that turn a dense network into a compressed one, as values with keys."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paredown.errors import UserError

KEY_FORMAT = 2  # part of every key: raise it when the same values come to mean another computation


@dataclass(frozen=True)
class Target:
    """What the user asks of any method: `sparsity` (fraction of conv and linear weights gone, in (0, 1)) or
    `speed_up` (dense MACs / compressed MACs, above 1)."""

    quantity: Literal["sparsity", "speed_up"]
    value: float

    def __post_init__(self) -> None:
        if self.quantity == "sparsity" and not 0 < self.value < 1:
            raise UserError(f"sparsity={self.value:g} is not between 0 and 1 (0.95 removes 95 % of the weights)")
        if self.quantity == "speed_up" and not self.value > 1:
            raise UserError(f"speed_up={self.value:g} is not above 1 (4 means a quarter of the dense MACs)")

    def __str__(self) -> str:
        return f"{self.quantity}={self.value:g}"


@dataclass
class Network:
    """A live network and the data that rebuilds it.

    `architecture` is the model's config (`_target_` below `paredown.models`, and its arguments), `blueprint` maps the
    name of each rewritten layer to its kind and arguments, `input_shape` is (channels, height, width); `pretrained`
    says that the weights are ones that the user brought.
    """

    module: nn.Module
    architecture: dict[str, Any]
    input_shape: tuple[int, int, int]
    blueprint: dict[str, dict[str, Any]] = field(default_factory=dict)
    pretrained: bool = False


@dataclass(frozen=True)
class Recipe:
    """How a `Fit` trains. `milestones` are fractions of `epochs`; `batch_size` is global, over all DDP ranks."""

    epochs: int
    batch_size: int = 128
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    schedule: Literal["steps", "cosine", "constant"] = "steps"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    precision: Literal["32", "bf16", "16"] = "32"
    channels_last: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        wrong = [
            f"recipe.{name}={getattr(self, name)!r} ({rule})"
            for name, rule, holds in (
                ("epochs", "at least 1", self.epochs >= 1),
                ("batch_size", "at least 1", self.batch_size >= 1),
                ("learning_rate", "above 0", self.learning_rate > 0),
                ("weight_decay", "at least 0", self.weight_decay >= 0),
                ("momentum", "in [0, 1)", 0 <= self.momentum < 1),
                ("label_smoothing", "in [0, 1)", 0 <= self.label_smoothing < 1),
                ("clip_norm", "above 0, or null", self.clip_norm is None or self.clip_norm > 0),
                ("milestones", "fractions of the epochs, rising", _rising_fractions(self.milestones)),
                ("optimizer", "sgd or adam", self.optimizer in ("sgd", "adam")),
                ("schedule", "steps, cosine or constant", self.schedule in ("steps", "cosine", "constant")),
                ("precision", "32, bf16 or 16", self.precision in ("32", "bf16", "16")),
            )
            if not holds
        ]
        if wrong:
            raise UserError("; ".join(wrong))

    def changed(self, changes: Changes) -> Recipe:
        """This recipe with what `changes` sets."""
        given = {f.name: getattr(changes, f.name) for f in fields(changes)}
        return replace(self, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class Changes:
    """What one stage of a method trains otherwise than the recipe says; None: as the recipe says."""

    epochs: int | None = None
    learning_rate: float | None = None
    milestones: tuple[float, ...] | None = None


def _rising_fractions(values: Sequence[float]) -> bool:
    return list(values) == sorted(set(values)) and all(0 < value < 1 for value in values)


@dataclass(frozen=True)
class Context:
    """What an `Edit` may use beyond the network, and `Hooks.start`: the data module, the device, the stage's own seed
    and a folder of the store for what stages share by its content (None: there is none)."""

    data: Any
    device: torch.device
    seed: int
    shared: Path | None = None


class Hooks:
    """What a method may do inside a `Fit`. Subclasses are frozen dataclasses: their fields are part of the key, but
    for those with `init=False`, where a hook may keep what it needs between two calls of one step."""

    # whether a fit ends with the weights of the best validation top-1: an epoch's, or those that it began with
    keeps_best: bool = False
    in_key = True  # False for one that computes the same, but for rounding, in another way

    def start(self, network: nn.Module, context: Context) -> None:
        """Before the first step, and before a killed fit goes on: `network` as the stage before left it, in training
        mode. May freeze parameters, or put layers into eval mode."""

    def loader(self, data: Any, batch_size: int, seed: int, **place: Any) -> Any:
        """What to train on in place of the training images, or None; `place` holds device, rank and world, as the
        loaders of `paredown.data.images` take them."""
        return None

    def loss(self, network: nn.Module, images: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        """What to minimise in place of `loss`, the cross-entropy of a batch; penalties are added to it."""
        return loss

    def penalties(self, network: nn.Module, progress: float) -> dict[str, Tensor]:
        """Scalars added to the loss, by the name they are logged under. Called every step; `progress` is the
        fraction of the fit's epochs done, in [0, 1)."""
        return {}

    def optimizer(self, network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer | None:
        """The optimiser to use in place of the recipe's, or None."""
        return None

    def rate(self, history: Sequence[Mapping[str, float]]) -> float | None:
        """The learning rate of the epoch after those of `history`, as a fraction of the first, in place of the recipe's
        schedule; 0 ends the fit; None: as the recipe says."""
        return None

    def before_step(self, network: nn.Module, step: int) -> None:
        """Before the forward pass of training step `step` (0-based, over the whole fit)."""

    def after_step(self, network: nn.Module, step: int) -> None:
        """After the optimiser's step."""

    def after_epoch(self, network: nn.Module, epoch: int) -> dict[str, float]:
        """After epoch `epoch` (0-based); returns figures to log beside the loss."""
        return {}


EditFunction = Callable[..., Mapping[str, Any] | None]


@dataclass(frozen=True)
class Edit:
    """Change the network once, between fits: `function(network, context, **arguments)`, in place.

    `function` is a module-level function, so that its values and nothing else make its key. What it returns, plain JSON
    data or None, is kept with the state: what it found (ranks, scores, a curve) for the method's metrics and figures.
    """

    name: str
    function: EditFunction
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "<" in self.function.__qualname__ or hasattr(self.function, "__self__"):
            raise TypeError(f"Edit {self.name!r} needs a module-level function, got {self.function!r}")


@dataclass(frozen=True)
class Fit:
    """Train. Shapes are fixed; `hooks` may add penalties, replace the optimiser, act after a step or an epoch."""

    name: str
    recipe: Recipe
    hooks: tuple[Hooks, ...] = ()


Stage = Edit | Fit


@dataclass(frozen=True)
class Outcome:
    """A finished stage: `history`, one row of figures per epoch, of a Fit; `notes`, what it found, of an Edit."""

    stage: Stage
    history: Sequence[Mapping[str, float]]
    notes: Mapping[str, Any]
    network: Callable[[], Network]  # reads the state that the stage left


class Method(ABC):
    """A compression method: a frozen dataclass whose fields are its knobs."""

    @abstractmethod
    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """The stages for `target` (None: the method's own knobs decide), starting from the dense `network`.

        The network may be read (shapes, names), never changed. Raises UserError for a target it cannot meet.
        """

    def check(self, network: Network, data: Any) -> None:  # noqa: B027 (most need none)
        """Raise UserError for knobs that `data`, an opened data module, cannot serve: more images than it has."""

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Final metrics of the method's own, by name."""
        return {}

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Plotly figures of the method's own, by name."""
        return {}


def describe(value: Any) -> Any:
    """`value` as plain JSON data: dataclasses and functions carry the name of their class or function."""
    if is_dataclass(value) and not isinstance(value, type):
        values = {f.name: describe(getattr(value, f.name)) for f in fields(value) if f.init}
        return {"is": _name(type(value))} | values
    if callable(value):
        return _name(value)
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value if not isinstance(item, Hooks) or item.in_key]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a stage holds plain values only, got {value!r} of {type(value).__name__}")


def _name(thing: Any) -> str:
    return f"{thing.__module__}.{thing.__qualname__}"


def digest(value: Any) -> str:
    """20 hex digits that name `value`: equal data, equal digest, on any machine."""
    text = json.dumps(describe(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def stage_key(stage: Stage, parent: str, seed: int, data: str) -> str:
    """The key of `stage` run after `parent` (a stage's key, or the digest of an architecture) on dataset `data`."""
    return digest({"format": KEY_FORMAT, "stage": stage, "parent": parent, "seed": seed, "data": data})
