"""GraSP (Wang, Zhang and Grosse, ICLR 2020): pruning before training that preserves the flow of gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from paredown.core.constraints import Count, Positive
from paredown.methods.sparse.pruning import PruneAtStart
from paredown.surgery import saliency
from paredown.surgery.saliency import Mode


@dataclass(frozen=True)
class GraSP(PruneAtStart):
    """Weights are scored on `draws` samples of `per_class` images of each class, in batches of `chunk` (None: of half a
    sample, as the authors do for CIFAR-10), at logits divided by `temperature`; the other hyperparameters are those of
    `surgery.saliency.GraSP`."""

    per_class: Count = 10
    draws: Count = 1
    chunk: Count | None = None
    batch_norm: Mode = "train"
    temperature: Positive = 200.0
    classifier: Literal["xavier", "own"] = "xavier"
    order: Literal["highest", "smallest_magnitude"] = "highest"

    def saliency(self) -> saliency.GraSP:
        """Return w (H g)."""
        images = (self.per_class, self.draws, self.chunk, self.batch_norm)
        return saliency.GraSP(*images, self.temperature, self.classifier, self.order)
