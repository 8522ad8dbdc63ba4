"""C-SGD: filters that a centripetal training makes equal, and a merger that changes nothing (Ding et al. 2019)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paredown.core.constraints import Positive
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Outcome, Stage
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target
from paredown.graph.channels import Group
from paredown.methods.families import accuracy, notes_of, only_goal, train_dense
from paredown.methods.filters.filter_cuts import Keep
from paredown.methods.filters.pruning import CutGroups, Scopes
from paredown.surgery.clustering import clusters_of, members
from paredown.surgery.narrowing import merge
from paredown.surgery.width_budget import scoped, widths_for, widths_keeping
from paredown.training.hooks.centripetal import Centripetal, require_sgd

log = logging.getLogger("paredown")
TOO_FAR = 1e-3


@identity("c_sgd/merge", kinds=["narrow"])
def merge_clusters(
    network: Network, context: Context, widths: Mapping[str, int], of: str | None = None, scope: Scopes = "all"
) -> dict[str, Any]:
    """Merge the channels of the clusters that `Centripetal` found on the network of the stage `of`. Return as notes the
    channels `kept` by group, `of` how many, the largest relative `deviation` of a filter from its cluster's mean, and
    the accuracy before and after as `base` and `pruned`."""
    before = context.earlier(of)
    groups = scoped(network, scope)
    found = clusters_of(before.module, scoped(before, scope), widths)
    sets = {name: members(clusters) for name, clusters in found.items()}
    base = accuracy(network, context)
    deviation = merge(network, groups, sets)
    if deviation > TOO_FAR:
        log.warning("c_sgd: filters of a cluster differ by %.2g of their mean: train longer, or stronger", deviation)
    kept = {g.name: [s[0] for s in sets[g.name]] if g.name in sets else list(range(g.size)) for g in groups}
    notes = {"kept": kept, "of": {g.name: g.size for g in groups}, "deviation": deviation}
    return notes | {"base": base, "pruned": accuracy(network, context)}


@dataclass(frozen=True)
class CSGD(CutGroups):
    """A training (not of a network whose weights the user brought), then a centripetal one and a merger, once for each
    of `steps`, fractions of the channels that stay, and at last for `keep` or the target."""

    keep: Keep | None = None
    steps: tuple[Keep, ...] = ()
    strength: Positive = 3e-3
    centripetal: RecipeOverrides = field(default_factory=RecipeOverrides)

    def __post_init__(self) -> None:
        super().__post_init__()
        every = [*self.steps, *([] if self.keep is None else [self.keep])]
        if every != sorted(set(every), reverse=True):
            raise UserError(f"method.steps={list(self.steps)} must fall, to above method.keep={self.keep}")

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the stages. Raise UserError for an optimiser that is not SGD, for widths that do not fall, unless
        there is one of `keep` and a target, and where that is out of reach."""
        require_sgd(recipe.optimizer)
        only_goal("c_sgd", "channels", target, {"keep": self.keep})
        groups = self.groups(network)
        stages = train_dense(network, recipe)
        before = {group.name: group.size for group in groups}
        for at, widths in enumerate(every := self._widths(target, network, groups), start=1):
            number = "" if at == len(every) else f"_{at}"
            if any(widths[name] > before[name] for name in widths) or widths == before:
                raise UserError(f"c_sgd: step {at} of method.steps merges nothing, or less than the one before")
            of = stages[-1].name if stages else None
            hook = Centripetal(self.strength, widths, of, self.scope)
            edit = Edit(f"prune{number}", merge_clusters, {"widths": widths, "of": of, "scope": self.scope})
            stages += [Fit(f"centripetal{number}", recipe.changed(self.centripetal), (hook,)), edit]
            before = widths
        return stages

    def _widths(self, target: Target | None, network: Network, groups: Sequence[Group]) -> list[dict[str, int]]:
        """Return the channels of each group after each merger."""
        fractions = [*self.steps, *([] if self.keep is None else [self.keep])]
        found = [widths_keeping(groups, fraction) for fraction in fractions]
        return [*found, widths_for(network, groups, Goal.of(target))] if target else found

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return the counts and accuracies of all mergers together, and the deviation at the last, `cluster/deviation`:
        what the last accuracies differ by comes from it alone."""
        first = next(o.notes for o in outcomes if o.stage.name.startswith("prune"))
        found = super().metrics(outcomes) | {"channels/full": float(sum(first["of"].values()))}
        found |= {f"base/{top}": value for top, value in first["base"].items()}
        return found | {"cluster/deviation": notes_of(outcomes, "prune")["deviation"]}
