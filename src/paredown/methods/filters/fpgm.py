"""FPGM: the filters closest to the geometric median of their layer go, and stay zero (He et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from paredown.core.constraints import Share
from paredown.core.errors import UserError
from paredown.graph.channels import Group
from paredown.methods.filters.soft_pruning import SoftPruning
from paredown.training.hooks.soft_filters import SoftFilters


@dataclass(frozen=True)
class FPGM(SoftPruning):
    """Filter pruning via geometric median. Of the filters that go the fraction 1 - `keep_norm` of all is chosen by
    norm, the rest by distance; `frozen` filters do not come back."""

    keep_norm: Share = 1.0
    frozen: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep is not None and self.keep > self.keep_norm:
            raise UserError(
                f"method.keep_norm={self.keep_norm:g} is below method.keep={self.keep:g}: by norm alone more would go"
            )
        if self.frozen and self.every > 1:
            raise UserError(f"method.every={self.every}: frozen filters are chosen once (method.frozen=false)")

    def hook(self, keep: Mapping[str, int], groups: Sequence[Group]) -> SoftFilters:
        """Return the choice by distance."""
        by_norm = {g.name: math.floor(g.size * (1 - Fraction(str(self.keep_norm)))) for g in groups}
        first = {name: number for name, number in by_norm.items() if number}
        return SoftFilters(keep, "distance", first, self.batch_norm, self.frozen, self.every)
