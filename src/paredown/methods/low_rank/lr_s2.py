"""LR-S2 (Idelbayev and Carreira-Perpinan, CVPR 2020), without data, as SVD-NAS reproduces it (supplement, S2.2): ranks
by singular values against cost, the least ones with s_{r+1}^2 <= kappa c_k in layer k."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from paredown.core.constraints import Positive
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit
from paredown.core.target import Goal, Target
from paredown.layers.factorised.forms import Factorisation
from paredown.methods.families import DecomposeTrained, compress, only_goal
from paredown.methods.low_rank.papers import FAMILIES, Family
from paredown.surgery import rank_budget
from paredown.surgery.factorise import Select, convolutions, singular_values
from paredown.surgery.rank_budget import DesignCost, Designs, least, limited, require_reach, uniform

log = logging.getLogger("paredown")


@dataclass(frozen=True)
class LRS2(DecomposeTrained):
    """`kappa`, 2 lambda / mu of equation S.2, in squared singular values a MAC; a target finds it. `legacy_cost`
    takes the layer's MACs for c_k, not those of a rank, and stops at the first layer of rank 1 (released code)."""

    kappa: Positive | None = None
    family: Family = "spatial"
    select: Select = "auto"
    legacy_cost: bool = False

    def decomposition(self, target: Target | None, network: Network) -> Edit:
        """Return the decomposition. Raise UserError unless there is either a target or a kappa, and for a target out of
        reach."""
        names, factorisation = list(convolutions(network.module, self.select)), FAMILIES[self.family]
        goal = only_goal("lr_s2", "ranks", target, {"kappa": self.kappa})
        if target:
            rank_1 = uniform(dict.fromkeys(names, 1), factorisation)
            require_reach(network, target, DesignCost(network).cheaper(rank_1))
        settings = {"factorisation": factorisation, "names": names, "legacy_cost": self.legacy_cost, "goal": goal}
        return Edit("decompose", decompose, settings)


@identity("lr_s2/decompose", kinds=["pair"])
def decompose(
    network: Network,
    context: Context,
    factorisation: Factorisation,
    names: Sequence[str],
    legacy_cost: bool,
    goal: Goal,
) -> dict[str, Any]:
    """Decompose the layers `names` that need fewer MACs so, at the ranks of the kappa that `goal` gives or the least
    that reaches its target. Return kappa and the notes of `compress`. Raise UserError where `legacy_cost` stops before
    the target."""
    macs, worth = DesignCost(network), {}
    for name in names:
        price = macs.layer(name) if legacy_cost else macs.per_rank(name, factorisation)
        worth[name] = singular_values(network, name, factorisation).square() / price

    def designs(kappa: float) -> Designs:
        return macs.cheaper(uniform(ranks_at(worth, kappa, legacy_cost), factorisation))

    if target := goal.target():
        cost, limit = limited(network, target)
        kappa = least(worth.values(), lambda tried: cost.total(designs(tried)) <= limit)
        if kappa is None:  # the plan checked the reach of equation S.2 only
            raise UserError(f"{target} is out of reach with method.legacy_cost=true, which stops at rank 1")
    else:
        kappa = goal.number()
    found = designs(kappa)
    log.info("lr_s2: kappa %.3g decomposes %d of %d layers", kappa, len(found), len(names))
    return {"kappa": kappa} | compress(network, context, found)


def ranks_at(worth: Mapping[str, Tensor], kappa: float, legacy_cost: bool = False) -> dict[str, int]:
    """Return the rank of each layer by its squared singular values, largest first, per MAC (`worth`): how many exceed
    `kappa`, at least 1. `legacy_cost` goes no further than where the first layer reaches rank 1."""
    if legacy_cost:
        kappa = min([kappa, *(float(values[0]) for values in worth.values())])
    return rank_budget.ranks_at(worth, "threshold", kappa)
