"""Convolutions as pairs: the truncated SVD of their weights, and the base of Jaderberg's and Zhang's methods."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar

from annotated_types import Ge
from torch import Tensor

from paredown.core.constraints import Count, Energy, Rule
from paredown.core.errors import UserError, nearest
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Outcome
from paredown.core.recipe import RecipeOverrides
from paredown.core.target import Goal, Target
from paredown.frontier.plots import per_layer
from paredown.layers.factorised.forms import Factorisation, full_rank, kernel_shape
from paredown.methods.families import (
    DecomposeTrained,
    accuracy,
    notes_of,
    only_goal,
    rank_figure,
    rank_metrics,
    rank_notes,
)
from paredown.surgery.factorise import Select, convolutions, decompose, layer, singular_values
from paredown.surgery.rank_budget import Criterion, DesignCost, ranks_at, reaching, require_reach, uniform


@dataclass(frozen=True)
class PairMethod(DecomposeTrained):
    """Convolutions decomposed in one `factorisation`, whose ranks follow from a target, `energy` or `ranks`."""

    energy: Energy | None = None
    ranks: dict[str, int] | None = None
    select: Select = "all"
    images: Annotated[int, Ge(2), Rule("at least 2")] = 3000
    positions: Count = 10
    finetune: RecipeOverrides = field(
        default_factory=lambda: RecipeOverrides(epochs=4, milestones=(0.5,)), kw_only=True
    )
    factorisation: ClassVar[Factorisation]
    finetunes: ClassVar[bool] = True

    @abstractmethod
    def edit(self, network: Network, names: list[str], goal: Goal) -> Edit:
        """Return the edit that replaces the convolutions `names` by pairs of the ranks that `goal` leads to."""

    def decomposition(self, target: Target | None, network: Network) -> Edit:
        """Return the edit. Raise UserError unless one of a target, `energy` and `ranks` is given; for a target out of
        reach at rank 1; for ranks of no such layer, or out of bounds."""
        names = list(convolutions(network.module, self.select))
        own = {"energy": self.energy, "ranks": self.ranks}
        goal = only_goal(type(self).__name__.lower(), "ranks", target, own)
        if target:
            require_reach(network, target, uniform(dict.fromkeys(names, 1), self.factorisation))
        for name, rank in (self.ranks or {}).items():
            if name not in names:
                raise UserError(f"method.ranks: no convolution {name!r} to decompose: {nearest(name, names)}")
            most = full_rank(kernel_shape(layer(network, name)), self.factorisation)
            if not 1 <= rank <= most:
                raise UserError(f"method.ranks: {name} has ranks from 1 to {most}, not {rank}")
        return self.edit(network, list(self.ranks or names), goal)

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return the accuracies of the base class, and `rank/sum` of `rank/full`."""
        return super().metrics(outcomes) | rank_metrics(notes_of(outcomes, "decompose"))

    def figures(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """Return the ranks, and the errors of the decomposed layers' responses against the dense network's."""
        notes = notes_of(outcomes, "decompose")
        title, unit = "Error of the responses on sampled training images", "relative squared error"
        errors = {"response_error": per_layer(notes["errors"], title, unit)} if "errors" in notes else {}
        return rank_figure(notes) | errors


@identity("pairs/truncate", kinds=["pair"])
def truncate(
    network: Network,
    context: Context,
    factorisation: Factorisation,
    names: Sequence[str],
    goal: Goal,
    criterion: Criterion = "energy",
) -> dict[str, Any]:
    """Replace the convolutions `names` by pairs, the truncated SVDs of their weights. `goal` gives the ranks, the
    energy or threshold, or a target, for which the least of what `criterion` says is taken."""
    base = accuracy(network, context)
    spectra = {name: singular_values(network, name, factorisation) for name in names}
    ranks, found = choose(network, factorisation, goal, spectra, criterion)
    decompose(network, uniform(ranks, factorisation))
    return found | {"base": base, "decomposed": accuracy(network, context)}


def choose(
    network: Network,
    factorisation: Factorisation,
    goal: Goal,
    spectra: Mapping[str, Tensor],
    criterion: Criterion = "energy",
) -> tuple[dict[str, int], dict[str, Any]]:
    """Return the rank of each layer of the dense `network` by its `spectra` and `goal` (see `truncate`), and notes."""
    if target := goal.target():
        designs = partial(uniform, factorisation=factorisation)
        goal = Goal(criterion, reaching(target, network, spectra, designs, criterion))
    if isinstance(goal.value, Mapping):
        ranks, found = dict(goal.value), {}
    else:
        ranks, found = ranks_at(spectra, criterion, goal.number()), {criterion: goal.number()}
    ratio = DesignCost(network).ratio(uniform(ranks, factorisation))
    full = {name: len(s) for name, s in spectra.items()}
    remedy = "take lower ranks" if criterion == "energy" else "take a higher threshold"
    return ranks, found | rank_notes("decompose", goal, ranks, full, ratio, remedy)
