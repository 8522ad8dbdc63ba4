"""SFP: after each epoch the filters of smallest norm go to zero, and may come back in the next (He et al. 2018)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paredown.graph.channels import Group
from paredown.methods.filters.soft_pruning import SoftPruning
from paredown.training.hooks.soft_filters import SoftFilters


@dataclass(frozen=True)
class SFP(SoftPruning):
    """Soft filter pruning."""

    def hook(self, keep: Mapping[str, int], groups: Sequence[Group]) -> SoftFilters:
        """Return the choice by L2 norm."""
        return SoftFilters(keep, batch_norm=self.batch_norm, every=self.every)
