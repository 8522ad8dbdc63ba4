"""SynFlow (Tanaka et al., NeurIPS 2020): pruning before training, without data, by the flow through all paths."""

from __future__ import annotations

from dataclasses import dataclass

from paredown.core.constraints import Count
from paredown.methods.sparse.pruning import PruneAtStart
from paredown.surgery import saliency


@dataclass(frozen=True)
class SynFlow(PruneAtStart):
    """Weights are scored `rounds` times, each time without those that went before: one round may cut the network."""

    rounds: Count = 100

    def saliency(self) -> saliency.SynFlow:
        """Return w dR/dw."""
        return saliency.SynFlow()
