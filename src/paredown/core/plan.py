"""The method interface: a method plans the stages that turn a dense network into a compressed one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from paredown.core.constraints import Checked
from paredown.core.hooks import Hooks
from paredown.core.keys import identified, identity, identity_name, identity_of, kind_versions, without_defaults
from paredown.core.network import Network
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Target

EditFunction = Callable[..., Mapping[str, Any] | None]


@identity("edit")
@dataclass(frozen=True)
class Edit:
    """Change the network once, between fits: `function(network, context, **arguments)`, in place.

    `function` has an `@identity` that names it, its version and the layer kinds it builds; with `arguments` that makes
    the stage's key. What it returns, plain JSON data or None, is kept with the state: what it found (ranks, scores, a
    curve) for the method's metrics and figures.
    """

    name: str
    function: EditFunction
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if hasattr(self.function, "__self__"):
            raise TypeError(f"Edit {self.name!r} needs a function with values of its own, got {self.function!r}")
        identity_of(self.function)

    def identified_function(self) -> dict[str, Any]:
        """Return the function's name and version, and the versions of the layer kinds that it builds."""
        return {"is": identity_name(self.function)} | kind_versions(identity_of(self.function).kinds)

    def identified_arguments(self) -> Any:
        """Return the arguments that differ from the function's defaults."""
        return identified(without_defaults(self.function, self.arguments))


@identity("fit")
@dataclass(frozen=True)
class Fit:
    """Train. Shapes are fixed; `hooks` may add penalties, replace the optimiser, act after a step or an epoch."""

    name: str
    recipe: Recipe
    hooks: tuple[Hooks, ...] = ()


Stage = Edit | Fit


@dataclass(frozen=True)
class Outcome:
    """A finished stage: `history`, one row of figures per epoch, of a Fit, in the precision of its training; `notes`,
    what it found, of an Edit."""

    stage: Stage
    history: Sequence[Mapping[str, float]]
    notes: Mapping[str, Any]
    network: Callable[[], Network]  # reads the state that the stage left
    accuracy: Callable[[], Mapping[str, float]]  # its loss, top1, top5: deployed, fp32, test images


class Method(Checked, ABC):
    """A compression method: a frozen dataclass whose fields are its hyperparameters, checked against their types."""

    section: ClassVar[str] = "method"
    targets: ClassVar[tuple[str, ...]] = ("sparsity", "speed_up")  # the quantities of targets that `plan` knows
    transfers: ClassVar[tuple[str, ...]] = ("mask_only", "finetune")  # the modes in which a plan may be another data's

    @abstractmethod
    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Plan the stages for `target` (None: the hyperparameters decide), starting from the dense `network`.

        The network may be read (shapes, names), never changed. Raise UserError for a target that cannot be met.
        """

    def check(self, network: Network, data: Any) -> None:
        """Raise UserError for hyperparameters that the opened `data` cannot serve, as more images than it has."""

    def untrained(self) -> dict[str, str]:
        """Return the settings of trainings that are left out, by field, each with the setting that leaves it out."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]  # of subclasses
        none = [name for name, value in values.items() if isinstance(value, RecipeOverrides) and value.epochs == 0]
        return {name: f"method.{name}.epochs=0" for name in none}

    def further(self, name: str, recipe: Recipe, *hooks: Hooks, end: str = "") -> list[Stage]:
        """Return the training that the overrides in the field `name` describe, none where it is left out; `end` ends
        the name of its stage."""
        return [] if name in self.untrained() else [Fit(f"{name}{end}", recipe.changed(getattr(self, name)), hooks)]

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return the method's final metrics by name."""
        return {}

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the method's Plotly figures by name."""
        return {}
