"""L1-norm filter pruning: the filters of smallest sum of magnitudes go, with all that reads them (Li et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction as Exact
from typing import Annotated, Any

from annotated_types import Interval

from paredown.core.constraints import Rule
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Target
from paredown.graph.channels import Group
from paredown.methods.filters.pruning import PruneChannels
from paredown.surgery.importance import L1

Rate = Annotated[float, Interval(ge=0, lt=1), Rule("at least 0 and below 1: the fraction of its filters that goes")]


@dataclass(frozen=True)
class L1Filters(PruneChannels):
    """`rates` by group, layer or module (the longest name that fits; none: 0) instead of a target, as the paper prunes;
    `normalise` divides the sums of a layer by their mean before layers are compared."""

    rates: Mapping[str, Rate] | None = None
    normalise: bool = True

    def importance(self) -> L1:
        """Return the L1 norm."""
        return L1(self.normalise)

    def arguments(self, target: Target | None, network: Network) -> dict[str, Any]:
        """Return the goal, or the widths that `rates` leave. Raise UserError for both, and as `widths_at`."""
        if not self.rates:
            return super().arguments(target, network)
        if target or self.keep_params:
            raise UserError(f"method.rates says how many filters go: leave out {target or 'method.keep_params'}")
        if self.round_to > 1:
            raise UserError("method.rates says how many filters go: leave out method.round_to")
        return {"widths": widths_at(self.rates, self.groups(network), self.least)}


def widths_at(rates: Mapping[str, float], groups: tuple[Group, ...], least: int = 1) -> dict[str, int]:
    """Return the channels that each group keeps, int(n (1 - rate)) as the authors round. Raise UserError for a name
    in `rates` that is of no group, for a module's whose rate would cut a residual trunk, or where nothing goes."""
    found = {}
    for group in groups:
        name = max((name for name in rates if _covers(name, group)), key=len, default=None)
        rate = Exact(0) if name is None else Exact(str(rates[name]))
        if rate and group.summed and name not in (group.name, group.layer):
            raise UserError(
                f"method.rates.{name}: the channels of {group.name} are those of a residual trunk, which begins there "
                f"and is cut as a whole: give it a rate by its own name, or take method.scope=internal"
            )
        found[group.name] = min(group.size, max(least, math.floor(group.size * (1 - rate))))
    for name in rates:
        if not any(_covers(name, group) for group in groups):
            raise UserError(f"method.rates.{name}: no channels to cut begin there; they do at {', '.join(found)}")
    if all(found[group.name] == group.size for group in groups):
        raise UserError("method.rates removes no filter: give larger rates")
    return found


def _covers(name: str, group: Group) -> bool:
    """Tell whether `name` is that of the group, of its first layer, or of a module around that."""
    return name in (group.name, group.layer) or group.layer.startswith(f"{name}.")
