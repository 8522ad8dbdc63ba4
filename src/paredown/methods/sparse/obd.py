"""Optimal brain damage (LeCun, Denker and Solla 1990): pruning after training by the diagonal of the Fisher matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from paredown.core.constraints import Count
from paredown.methods.sparse.pruning import PruneTrained
from paredown.surgery import curvature
from paredown.surgery.curvature import Labels


@dataclass(frozen=True)
class OBD(PruneTrained):
    """Weights are scored on `images` training images (None: on all), in batches of `chunk`, at `labels` sampled from
    the network's softmax, expected under it, or given."""

    transfers: ClassVar[tuple[str, ...]] = ("finetune",)  # a training precedes the pruning

    images: Count | None = None
    chunk: Count = 32
    labels: Labels = "sampled"

    def saliency(self) -> curvature.OBD:
        """Return w^2 F / 2."""
        return curvature.OBD(self.images, self.chunk, self.labels)
