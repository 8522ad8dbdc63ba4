"""CNN-FCF: each filter gets a factor that a training drives to 0 or 1; those of 0 go (Li et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, cast

from annotated_types import Ge

from paredown.core import blueprint
from paredown.core.constraints import Positive, Rule
from paredown.core.distributed import broadcast
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Outcome, Stage
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Target
from paredown.graph.channels import Group
from paredown.layers.factored import FactoredConv2d
from paredown.methods.families import notes_of, train_dense
from paredown.methods.filters.filter_cuts import CutFilters, cut_filters
from paredown.methods.filters.nisp import Mixture
from paredown.surgery.filters import filter_groups
from paredown.surgery.scattering import Reads
from paredown.training.hooks.filter_selection import FilterSelection, binary_gap

Growth = Annotated[float, Ge(1), Rule("at least 1: the factor of the penalty in each step")]
SELECTED = 0.1  # factors above it are the authors' ones


@identity("cnn_fcf/factor", kinds=["factored"])
def factor(network: Network, context: Context, names: Sequence[str], rho: float) -> None:
    """Give the filters of the convolutions `names` factors of 1, and their constraints the penalty `rho`."""
    for name in names:
        blueprint.rewrite(network, name, "factored")
        cast(FactoredConv2d, network.module.get_submodule(name)).penalty.fill_(rho)


@identity("cnn_fcf/cut", kinds=["narrow"])
def cut_factored(
    network: Network, context: Context, keep: Mapping[str, int], reads: Reads = "previous"
) -> dict[str, Any]:
    """Fold the factors into the weights and cut all but the `keep` filters of the largest factors. Return the notes of
    `cut_filters`, how many factors exceed 0.1 as `selected`, and the largest distance of one to 0 and 1, `gap`."""
    left, selected, gaps = {}, {}, []
    for name, number in keep.items():
        layer = cast(FactoredConv2d, network.module.get_submodule(name))
        factors = broadcast(layer.factors.detach().double().cpu())
        left[name] = factors.argsort(descending=True, stable=True)[:number].sort().values.tolist()
        selected[name] = int((factors > SELECTED).sum())
        gaps.append(binary_gap(factors))
        network.module.set_submodule(name, layer.deployed())
        del network.blueprint[name]
    return cut_filters(network, context, left, reads) | {"selected": selected, "gap": max(gaps)}


@dataclass(frozen=True)
class CNNFCF(CutFilters):
    """A training (not of a network whose weights the user brought), the selection of filters, the cut, and a
    finetuning. The first convolution and shortcuts keep all filters. With `reads` "previous" a convolution behind an
    addition reads only what the layer that wrote to it last kept, as the authors' networks."""

    reads: Reads = "previous"
    alpha: Mixture = 0.99
    rho: Positive = 0.01
    growth: Growth = 1.01
    most: Positive = 6.0
    select: RecipeOverrides = field(default_factory=RecipeOverrides)
    finetune: RecipeOverrides = field(default_factory=RecipeOverrides)

    def groups(self, network: Network) -> tuple[Group, ...]:
        """Find the convolutions that may lose filters, without the first. Raise UserError where there is none."""
        return filter_groups(network, stem=False, reads=self.reads)

    def reading(self) -> Reads:
        """Return `reads`."""
        return self.reads

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the stages. Raise UserError as `kept` does, and for a network without filters to cut."""
        keep = self.kept(target, network, self.groups(network))
        plain = replace(recipe, optimizer="sgd", momentum=0.0, nesterov=False, weight_decay=0.0)
        hook = FilterSelection(keep, self.alpha, self.growth, self.most)
        return [
            *train_dense(network, recipe),
            Edit("factor", factor, {"names": list(keep), "rho": self.rho}),
            Fit("select", plain.changed(self.select), (hook,)),
            Edit("prune", cut_factored, {"keep": keep, "reads": self.reads}),
            *self.further("finetune", recipe),
        ]

    def metrics(self, outcomes: Sequence[Outcome]) -> dict[str, float]:
        """Return the counts and accuracies of the cut, how many factors exceeded 0.1, `factor/selected`, and how far
        one was from 0 and 1 at most, `factor/binary_gap`."""
        notes = notes_of(outcomes, "prune")
        found = {"factor/selected": float(sum(notes["selected"].values())), "factor/binary_gap": notes["gap"]}
        return super().metrics(outcomes) | found
