"""MLPrune (Zeng and Urtasun 2018): pruning after training by the Kronecker-factored Fisher matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from paredown.core.constraints import Count, Positive
from paredown.methods.sparse.pruning import PruneTrained
from paredown.surgery import curvature
from paredown.surgery.curvature import Labels


@dataclass(frozen=True)
class MLPrune(PruneTrained):
    """Weights are scored as by OBD, with Kronecker factors to whose diagonals `damping` is added."""

    transfers: ClassVar[tuple[str, ...]] = ("finetune",)  # a training precedes the pruning

    images: Count | None = None
    chunk: Count = 32
    labels: Labels = "sampled"
    damping: Positive = 5e-3

    def saliency(self) -> curvature.MLPrune:
        """Return w^2 / (2 [G^-1]_ii [A^-1]_jj)."""
        return curvature.MLPrune(self.images, self.chunk, self.labels, self.damping)
