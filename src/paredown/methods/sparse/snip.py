"""SNIP (Lee, Ajanthan and Torr, ICLR 2019): pruning before training by connection sensitivity."""

from __future__ import annotations

from dataclasses import dataclass

from paredown.core.constraints import Count
from paredown.methods.sparse.pruning import PruneAtStart
from paredown.surgery import saliency
from paredown.surgery.saliency import Mode


@dataclass(frozen=True)
class SNIP(PruneAtStart):
    """Weights are scored on `draws` samples of `per_class` training images of each class, in batches of `chunk`."""

    per_class: Count = 10
    draws: Count = 1
    chunk: Count | None = None
    batch_norm: Mode = "train"

    def saliency(self) -> saliency.SNIP:
        """Return |w dL/dw|."""
        return saliency.SNIP(self.per_class, self.draws, self.chunk, self.batch_norm)
