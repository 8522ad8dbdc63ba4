"""What methods share whose masks move in the middle of a training: the random start, the plan, metrics and figures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from paredown.core.constraints import NonNegativeInt, Share
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Method, Outcome, Stage
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.frontier.plots import lines, per_layer
from paredown.layers.masked import allowed, random_mask
from paredown.methods.families import notes_of, over_epochs
from paredown.surgery.densities import Start, start_counts
from paredown.surgery.moves import Rule
from paredown.surgery.sparsify import masked_layers, sizes
from paredown.training.hooks.moving_masks import MovingMask, Period

FALLING: Period = ((0.0, 100), (0.125, 200), (0.4, 400), (0.7, 800))  # of DSR's authors, for 200 epochs of CIFAR-10
EVERY_100: Period = ((0.0, 100),)


@identity("scatter", kinds=["masked"])
def scatter(network: Network, context: Context, weights: Mapping[str, int]) -> dict[str, Any]:
    """Mask all but `weights` of each layer, at random places that follow from the stage's seed. Return how many each
    layer keeps, and of how many."""
    generator = torch.Generator().manual_seed(context.seed)
    for name, layer in masked_layers(network).items():
        layer.set_mask(random_mask(allowed(layer), weights[name], generator).to(layer.mask.device))
    return {"kept": dict(weights), "of": sizes(network)}


@dataclass(frozen=True)
class Moving(Method):
    """A training whose masks move; each layer keeps `least` weights, and moves end at the fraction `until` of the
    steps."""

    name: ClassVar[str]  # as the user calls the method
    speeds_up: ClassVar[bool] = True  # whether it takes speed_up=
    transfers: ClassVar[tuple[str, ...]] = ()  # masks move in every training

    least: NonNegativeInt = field(default=0, kw_only=True)

    @abstractmethod
    def starts(self, target: Target, network: Network) -> dict[str, int]:
        """Return how many weights each layer starts with. Raise UserError where `target` cannot be met."""

    @abstractmethod
    def hook(self, target: Target, network: Network, kept: int) -> MovingMask:
        """Return the hook that moves the masks of `network`, which starts with `kept` weights."""

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the masking and the training. Raise UserError without a target, and as `starts` does."""
        if target is None:
            wanted = "sparsity= or speed_up=" if self.speeds_up else "sparsity="
            raise UserError(f"{self.name} trains a network of a given sparsity: give {wanted}")
        if target.quantity == "speed_up" and not self.speeds_up:
            raise UserError(
                f"{self.name} moves weights between layers, whose multiply-adds differ: it cannot aim at {target};"
                " give sparsity="
            )
        counts = self.starts(target, network)
        moving = self.hook(target, network, sum(counts.values()))
        return [Edit("scatter", scatter, {"weights": counts}), Fit("train", recipe, (moving,))]

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return how many weights were dropped in all, `moved/total`, and in how many layers none stays at the end,
        `layers/without_weights`."""
        rows = outcomes[-1].history
        dead = sum(not density for density in _densities(rows[-1]).values())
        return {
            "moved/total": sum(row["moved/connections"] for row in rows),
            "layers/without_weights": float(dead),
        }

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return, over the epochs, how many weights were dropped, and the density of each layer; that of each layer at
        the start and the end; and the rule's threshold over the epochs, where it has one."""
        rows, notes = outcomes[-1].history, notes_of(outcomes, "scatter")
        start = {name: number / notes["of"][name] for name, number in notes["kept"].items()}
        moved = over_epochs(rows, {self.name: "moved/connections"})
        found = {
            "density": per_layer(
                {"start": start, "end": _densities(rows[-1])}, "Density per layer", "fraction of weights kept"
            ),
            "moved": lines(moved, "Connections that moved in an epoch", "epoch", "connections"),
            "density_over_epochs": lines(
                over_epochs(rows, {name: f"density/{name}" for name in start}),
                "Density of each layer",
                "epoch",
                "fraction of weights kept",
            ),
        }
        if "moved/threshold" in rows[-1]:
            curve = over_epochs(rows, {"threshold": "moved/threshold"})
            found["threshold"] = lines(curve, "Threshold below which weights are dropped", "epoch", "|w|", log="y")
        return found


def _densities(row: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix("density/"): value for name, value in row.items() if name.startswith("density/")}


@dataclass(frozen=True)
class Rewiring(Moving):
    """A training with as many active weights in every step: a random sparse network of the densities `start`, whose
    connections move."""

    start: Start = field(default="uniform", kw_only=True)
    until: Share = field(default=1.0, kw_only=True)
    period: Period = field(default=FALLING, kw_only=True)

    @abstractmethod
    def rule(self, kept: int) -> Rule:
        """Return the rule by which connections move in a network of `kept` weights."""

    def starts(self, target: Target, network: Network) -> dict[str, int]:
        """Return the counts of `start_counts`. Raise UserError as it does."""
        return start_counts(network, target, self.start, self.least)

    def hook(self, target: Target, network: Network, kept: int) -> MovingMask:
        """Return the hook."""
        return MovingMask(self.rule(kept), self.period, self.until)
