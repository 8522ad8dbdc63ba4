"""What the methods that prune by scores share: their edits, and their plans before and after a training."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from paredown.core.constraints import Count, NonNegativeInt
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Method, Outcome, Stage
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target
from paredown.frontier.plots import per_layer
from paredown.methods.families import TOPS, accuracy, train_dense
from paredown.methods.sparse.interspace import Basis, convolutions, interspace, rewritten
from paredown.surgery.saliency import Saliency
from paredown.surgery.sparsify import Scope, masked_layers, partial, require_kept, sizes, sparsify


@identity("prune", kinds=["masked"])
def prune(
    network: Network,
    context: Context,
    saliency: Saliency,
    goal: Goal,
    scope: Scope = "global",
    least: int = 0,
    rounds: int = 1,
    measured: bool = False,
) -> dict[str, Any]:
    """Mask all but the weights of the largest scores of `saliency` that reach `goal`. Return how many weights each
    layer keeps, of how many, the number of `images` scored, and where `measured` the accuracy before and after, as
    `base` and `pruned`."""
    target = goal.target()
    if target is None:
        raise UserError(f"weights are pruned to a sparsity or a speed-up, not to {goal}")
    notes: dict[str, Any] = {"base": accuracy(network, context)} if measured else {}
    kept = sparsify(network, lambda now: saliency.scores(now, context), target, scope, least, rounds)
    notes |= {"pruned": accuracy(network, context)} if measured else {}
    if images := rounds * saliency.images_of(context.data):
        notes["images"] = images
    return notes | {"kept": kept, "of": sizes(network)}


@identity("rewind", kinds=["masked"])
def rewind(network: Network, context: Context, to: str | None) -> None:
    """Give every parameter and buffer but the masks the values that it had after the stage `to` (None: at the start),
    and mask the weights."""
    earlier = context.earlier(to).module.state_dict()
    masks = {f"{name}.mask" for name in masked_layers(network)}
    with torch.no_grad():
        for name, value in network.module.state_dict().items():
            if name not in masks:
                value.copy_(earlier[name])
    for layer in masked_layers(network).values():
        layer.set_mask(layer.mask)


@dataclass(frozen=True)
class Prune(Method):
    """Pruning to a target by scores, over the whole network or by layer (`scope`); each layer keeps `least` weights."""

    scope: Scope = field(default="global", kw_only=True)
    least: NonNegativeInt = field(default=0, kw_only=True)

    @abstractmethod
    def saliency(self) -> Saliency:
        """Return the saliency that scores weights."""

    def goal(self, target: Target | None, network: Network) -> Goal:
        """Return the goal of `target`. Raise UserError where there is none, or it cannot be met."""
        if target is None:
            raise UserError(f"{type(self).__name__.lower()} prunes to a target: give sparsity= or speed_up=")
        require_kept(network, target, self.scope, self.least)
        return Goal.of(target)

    def pruning(self, goal: Goal, end: str = "", **more: Any) -> Edit:
        """Return the edit `prune` to `goal`, with `more` arguments; `end` ends its name."""
        settings = {"saliency": self.saliency(), "goal": goal, "scope": self.scope, "least": self.least}
        return Edit(f"prune{end}", prune, settings | more)

    def check(self, network: Network, data: Any) -> None:
        """Raise UserError for more images than the data has, and for layers that cannot be scored."""
        self.saliency().check(network, data)

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return in how many layers no weight stays, `layers/without_weights`, and the accuracy before the first
        pruning and right after the last where it was measured."""
        every = prunings(outcomes)
        found = {"layers/without_weights": float(sum(not number for number in every[-1]["kept"].values()))}
        for when, notes in (("base", every[0]), ("pruned", every[-1])):
            found |= {f"{when}/{top}": notes[when][top] for top in TOPS if notes.get(when)}
        return found

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the density of each layer."""
        return density_figure(prunings(outcomes)[-1])


@dataclass(frozen=True)
class PruneAtStart(Prune):
    """Pruning of the untrained network, in `rounds` that each score what is left, and one training. With `interspace`
    coefficients in a trained `basis` are pruned, in the place of weights of kernels above 1 x 1."""

    rounds: Count = field(default=1, kw_only=True)
    interspace: bool = field(default=False, kw_only=True)
    basis: Basis = field(default="standard", kw_only=True)

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the pruning and the training. Raise UserError as `goal` does."""
        names = convolutions(network) if self.interspace else []
        first = [Edit("interspace", interspace, {"names": names, "basis": self.basis})] if names else []
        pruning = self.pruning(self.goal(target, rewritten(network, names)), rounds=self.rounds)
        return [*first, pruning, Fit("train", recipe)]


@dataclass(frozen=True)
class PruneTrained(Prune):
    """A training (not of a network whose weights the user brought), and `rounds` of a pruning and a finetuning, each of
    which keeps the same fraction of what is left."""

    rounds: Count = field(default=1, kw_only=True)
    finetune: RecipeOverrides = field(default_factory=RecipeOverrides, kw_only=True)

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the stages. Raise UserError as `goal` does."""
        self.goal(target, network)
        stages = train_dense(network, recipe)
        for end, goal in rounds_of(target, self.rounds):
            stages += [self.pruning(goal, end, measured=True), *self.further("finetune", recipe, end=end)]
        return stages


def rounds_of(target: Target | None, rounds: int) -> list[tuple[str, Goal]]:
    """Return the ending of its stages' names and the goal of each round towards `target`."""
    if target is None:
        return []
    goals = [Goal.of(partial(target, step / rounds)) for step in range(1, rounds + 1)]
    return [(ending(number), goal) for number, goal in enumerate(goals, start=1)]


def ending(number: int) -> str:
    """Return what ends the names of the stages of round `number`."""
    return "" if number == 1 else f"-{number}"


def prunings(outcomes: Sequence[Outcome]) -> list[Mapping[str, Any]]:
    """Return the notes of each pruning."""
    return [outcome.notes for outcome in outcomes if outcome.stage.name.startswith("prune")]


def density_figure(notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figure `density`: the fraction of its weights that each layer keeps."""
    density = {name: number / notes["of"][name] for name, number in notes["kept"].items()}
    return {"density": per_layer({"kept": density}, "Density per layer", "fraction of weights kept")}
