"""What the methods that cut channels share: the edit, the plan around it, metrics and figures."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Interval

from paredown.core.constraints import Count, Rule
from paredown.core.distributed import broadcast
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Method, Outcome, Stage
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target, Timing
from paredown.cost.latency import device_name
from paredown.frontier.plots import per_layer
from paredown.graph.channels import Group
from paredown.methods.families import TOPS, accuracy, notes_of, only_goal, train_dense
from paredown.runtime.width_clock import WidthClock, fast_enough, require_latency
from paredown.surgery.importance import Importance
from paredown.surgery.narrowing import Removed, cut, others, require_cuttable
from paredown.surgery.width_budget import (
    Scope,
    Widths,
    floors,
    limited,
    lowest,
    require_reach,
    scoped,
    steps,
    to_remove,
)

Scopes = Scope | tuple[str, ...]
Part = Annotated[float, Interval(gt=0, lt=1), Rule("between 0 and 1: the fraction of all parameters that stays")]


@identity("filters/prune", kinds=["narrow"])
def prune(
    network: Network,
    context: Context,
    importance: Importance,
    goal: Goal | None = None,
    widths: Mapping[str, int] | None = None,
    scope: Scopes = "all",
    least: int = 1,
    round_to: int = 1,
    timing: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Cut the channels of the lowest `importance`: as few as reach `goal` in one order over all groups of `scope`, or
    those that leave `widths`, by group. `timing` holds a latency's batch and threads, and the device's name for
    the key. Return the notes of `cut_channels`, and the number of `images` scored, if any."""
    images = importance.images_of(context.data)
    seen: dict[str, Any] = {"images": images} if images else {}
    groups = importance.scorable(network, scoped(network, scope))
    scores = {name: broadcast(values) for name, values in importance.scores(network, groups, context).items()}
    if goal is None:
        return seen | cut_channels(network, context, groups, to_remove(scores, widths or {}))
    fewest = floors(groups, least, steps(groups, round_to))
    removed = lowest(scores, groups, _enough(network, context, groups, goal, fewest, timing), least, round_to)
    return seen | cut_channels(network, context, groups, removed)


def _enough(
    network: Network,
    context: Context,
    groups: Sequence[Group],
    goal: Goal,
    fewest: Widths,
    timing: Mapping[str, Any] | None,
) -> Callable[[Widths], bool]:
    """Return whether widths reach `goal`: by what they cost, or for a latency as rank 0 measures it, which is less
    strict with the `fewest` channels."""
    if goal.quantity == "latency_speed_up":
        assert timing is not None
        target = Target("latency_speed_up", goal.number())
        clock = WidthClock(network, groups, Timing(timing["batch"], timing["threads"], str(context.device)))
        return lambda widths: fast_enough(clock, target, widths, fewest)
    cost, limit = limited(network, groups, goal)
    return lambda widths: cost.total(widths) <= limit


def cut_channels(network: Network, context: Context, groups: Sequence[Group], removed: Removed) -> dict[str, Any]:
    """Cut the channels `removed` of `groups`. Return as notes the channels `kept` by group, `of` how many, and the
    accuracy before and after as `base` and `pruned`."""
    base = accuracy(network, context)
    cut(network, groups, removed)
    kept = {g.name: others(g.size, removed.get(g.name, ())).tolist() for g in groups}
    notes = {"kept": kept, "of": {group.name: group.size for group in groups}}
    return notes | {"base": base, "pruned": accuracy(network, context)}


@dataclass(frozen=True)
class CutChannels(Method):
    """A method whose edit, called `edit`, cuts channels."""

    edit: ClassVar[str] = "prune"
    transfers: ClassVar[tuple[str, ...]] = ("finetune",)  # a training precedes the cut

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return how many channels stay, `channels/kept` of `channels/full`, in the groups that may be cut, and the
        accuracy before and right after the cut."""
        notes = notes_of(outcomes, self.edit)
        found = {"channels/kept": float(sum(map(len, notes["kept"].values())))}
        found |= {"channels/full": float(sum(notes["of"].values()))}
        return found | {f"{when}/{top}": notes[when][top] for when in ("base", "pruned") for top in TOPS if notes[when]}

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the channels of each group, all and kept."""
        notes = notes_of(outcomes, self.edit)
        curves = {"full": notes["of"], "kept": {name: len(kept) for name, kept in notes["kept"].items()}}
        return {"channels": per_layer(curves, "Channels per group", "channels")}


@dataclass(frozen=True)
class CutGroups(CutChannels):
    """A method that cuts channels of the groups of `scope` from all layers that share them."""

    scope: Scopes = field(default="all", kw_only=True)

    def groups(self, network: Network) -> tuple[Group, ...]:
        """Find the groups that may lose channels. Raise UserError where there is none."""
        return scoped(network, self.scope)

    def check(self, network: Network, data: Any) -> None:
        """Raise UserError for a network that does not run with fewer channels."""
        require_cuttable(network, self.groups(network))


@dataclass(frozen=True)
class PruneChannels(CutGroups):
    """A training (not of a network whose weights the user brought), a cut of the least important channels to a target,
    and a finetuning. Of each group of channels `least` stay, and a multiple of `round_to`."""

    targets: ClassVar[tuple[str, ...]] = ("sparsity", "speed_up", "latency_speed_up")

    least: Count = field(default=1, kw_only=True)
    round_to: Count = field(default=1, kw_only=True)
    keep_params: Part | None = field(default=None, kw_only=True)
    finetune: RecipeOverrides = field(default_factory=RecipeOverrides, kw_only=True)

    @abstractmethod
    def importance(self) -> Importance:
        """Return what scores channels."""

    def groups(self, network: Network) -> tuple[Group, ...]:
        """Find the groups that may lose channels and can be scored. Raise UserError where there is none."""
        return tuple(self.importance().scorable(network, scoped(network, self.scope)))

    def training(self, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the stages that precede the cut."""
        return train_dense(network, recipe)

    def arguments(self, target: Target | None, network: Network) -> dict[str, Any]:
        """Return what decides how many channels stay, as arguments of `prune`. Raise UserError unless there is exactly
        one target, and where the channels of `scope` cannot reach it."""
        goal = only_goal("this method", "channels", target, {"keep_params": self.keep_params}, self.targets)
        groups = self.groups(network)
        found = {"goal": goal, "least": self.least, "round_to": self.round_to}
        if target and target.timing:
            require_latency(network, groups, target, floors(groups, self.least, steps(groups, self.round_to)))
            device = device_name(torch.device(target.timing.device))
            threads = target.timing.threads or torch.get_num_threads()
            return found | {"timing": {"batch": target.timing.batch, "threads": threads, "device": device}}
        require_reach(network, groups, goal, self.least, self.round_to)
        return found

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the stages. Raise UserError as `arguments` does."""
        settings = {"importance": self.importance(), "scope": self.scope} | self.arguments(target, network)
        stages = [*self.training(network, recipe), Edit("prune", prune, settings)]
        return [*stages, *self.further("finetune", recipe)]
