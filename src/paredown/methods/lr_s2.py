"""LR-S2: ranks by the trade of singular values against cost (Idelbayev and Carreira-Perpinan, CVPR 2020), without data,
as SVD-NAS reproduces it (supplement, S2.2): layer k keeps the least rank at which s_{r+1}^2 <= kappa c_k."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paredown.errors import UserError
from paredown.layers._families import blocks
from paredown.methods._post_training import PostTraining, compress
from paredown.plan import Context, Edit, Network, Target
from paredown.surgery.design_space import Branch, Design, Prices, Select, limited, require_reach, targeted

log = logging.getLogger("paredown")
Scheme = Literal["spatial", "in_group"]  # one group: the scheme of the paper that SVD-NAS names, and learning_s1


@dataclass(frozen=True)
class LRS2(PostTraining):
    """`kappa`, 2 lambda / mu of equation S.2, in squared singular values a MAC; a target finds it. `legacy_cost`
    takes the layer's MACs for c_k, not those of a rank, and stops at the first layer of rank 1 (released code)."""

    kappa: float | None = None
    family: Scheme = "spatial"
    select: Select = "auto"
    legacy_cost: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kappa is not None and not self.kappa > 0:
            raise UserError(f"method.kappa={self.kappa:g} is not above 0")

    def decomposition(self, target: Target | None, network: Network) -> Edit:
        """The decomposition. UserError unless there is a target or a kappa, one of them; for a target out of reach."""
        names = list(targeted(network.module, self.select))
        if (target is None) == (self.kappa is None):
            got = f"{target} and method.kappa={self.kappa}" if target else "none"
            raise UserError(f"lr_s2 takes its ranks from one of sparsity=, speed_up= and method.kappa=, got {got}")
        if target:
            least = cheaper(Prices(network, "macs"), dict.fromkeys(names, 1), self.family)
            require_reach(network, target, least)
        until = {target.quantity: target.value} if target else {"kappa": self.kappa}
        settings = {"family": self.family, "names": names, "legacy_cost": self.legacy_cost, "until": until}
        return Edit("decompose", decompose, settings)


def decompose(
    network: Network,
    context: Context,
    family: Scheme,
    names: Sequence[str],
    legacy_cost: bool,
    until: Mapping[str, Any],
) -> dict[str, Any]:
    """Decompose the layers `names` that get cheaper, at the ranks of one kappa: `until` gives it ({"kappa": k}) or a
    target ({"speed_up": 2}) for the least that reaches it. UserError where `legacy_cost` stops before it."""
    macs, worth = Prices(network, "macs"), {}
    for name in names:
        conv: nn.Conv2d = network.module.get_submodule(name)  # type: ignore[assignment]
        s = torch.linalg.svdvals(blocks(conv.weight.detach().double(), family, 1)[0])
        worth[name] = s.square() / (macs.before(name) if legacy_cost else macs.per_rank(name, family, 1))
    goal, value = next(iter(until.items()))
    if goal == "kappa":
        kappa = value
    else:
        prices, limit = limited(network, Target(goal, value))  # type: ignore[arg-type]
        kappa = least_kappa(
            worth, lambda at: prices.total(cheaper(macs, ranks_at(worth, at, legacy_cost), family)) <= limit
        )
        if kappa is None:  # only then: of what S.2 reaches the plan knew
            raise UserError(f"{goal}={value:g} is out of reach with method.legacy_cost=true, which stops at rank 1")
    designs = cheaper(macs, ranks_at(worth, kappa, legacy_cost), family)
    log.info("lr_s2: kappa %.3g decomposes %d of %d layers", kappa, len(designs), len(names))
    return {"kappa": kappa} | compress(network, context, designs)


def ranks_at(worth: Mapping[str, Tensor], kappa: float, legacy_cost: bool = False) -> dict[str, int]:
    """The rank of each layer by what its squared singular values, largest first, are `worth` a MAC: how many are worth
    more than `kappa`, at least 1. `legacy_cost` goes no further than where the first layer reaches rank 1."""
    if legacy_cost:
        kappa = min([kappa, *(float(values[0]) for values in worth.values())])
    return {name: max(1, int((values > kappa).sum())) for name, values in worth.items()}


def least_kappa(worth: Mapping[str, Tensor], enough: Callable[[float], bool]) -> float | None:
    """The least kappa that is `enough`, by bisection over all those at which a rank changes; halfway to the next, so
    that no rounding decides. None where there is none."""
    steps = torch.cat(list(worth.values())).unique().tolist()
    between = [(low + high) / 2 for low, high in zip(steps, [*steps[1:], 2 * steps[-1]], strict=True)]
    index = bisect_left(between, True, key=enough)
    return between[index] if index < len(between) else None


def cheaper(macs: Prices, ranks: Mapping[str, int], family: Scheme) -> dict[str, Design]:
    """The designs of `ranks`, of the layers that need fewer MACs so."""
    return {
        name: [Branch(family, 1, rank)]
        for name, rank in ranks.items()
        if rank * macs.per_rank(name, family, 1) < macs.before(name)
    }
