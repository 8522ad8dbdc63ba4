"""Regularisers: pure functions of a weight, and the hooks that add them to the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paredown.layers.masked import effective_weight
from paredown.plan import Hooks

# Bansal et al.'s released schedule, as fractions of a fit: from each start, the decay times this factor.
SCHEDULE = ((0.0, 1.0), (21 / 200, 1e-3), (51 / 200, 1e-4), (71 / 200, 1e-6), (121 / 200, 0.0))


def soft_orthogonality(weight: Tensor) -> Tensor:
    """SO: ||W^T W - I||_F^2 with W (J, N) holding the N filters of `weight` (N, ...) as columns (SSC paper, eq. 14)."""
    filters = weight.flatten(1)
    if filters.shape[0] <= filters.shape[1]:
        return _distance_to_identity(filters @ filters.T)
    # equal traces of powers: the smaller Gram matrix differs by the surplus of the identities
    return _distance_to_identity(filters.T @ filters) + filters.shape[0] - filters.shape[1]


def double_soft_orthogonality(weight: Tensor) -> Tensor:
    """DSO: ||W^T W - I_N||_F^2 + ||W W^T - I_J||_F^2 (SSC paper, eq. 15), from the smaller Gram matrix alone."""
    filters = weight.flatten(1)
    return 2 * soft_orthogonality(weight) + filters.shape[1] - filters.shape[0]


@dataclass(frozen=True)
class SoftOrthogonality(Hooks):
    """SO or DSO (`double`) summed over all convolutions, times `decay`, times the factor that `schedule`, rising pairs
    (progress, factor) from progress 0 on, has reached. The default is Bansal et al.'s for 200 epochs, as fractions."""

    decay: float
    double: bool = False
    schedule: tuple[tuple[float, float], ...] = SCHEDULE

    def penalties(self, network: nn.Module, progress: float) -> dict[str, Tensor]:
        """The sum over layers, in the weights' own precision; nothing once the schedule has reached 0."""
        factor = [value for start, value in self.schedule if progress >= start][-1]
        if not factor * self.decay:
            return {}
        penalty = double_soft_orthogonality if self.double else soft_orthogonality
        alike: dict[torch.Size, list[Tensor]] = {}  # layers of one shape go through one batched product
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                alike.setdefault(layer.weight.shape, []).append(effective_weight(layer))
        with torch.autocast(next(network.parameters()).device.type, enabled=False):  # bf16 would swamp Gram - I
            total = torch.stack([torch.vmap(penalty)(torch.stack(weights)).sum() for weights in alike.values()]).sum()
        return {"dso" if self.double else "so": factor * self.decay * total}


def _distance_to_identity(gram: Tensor) -> Tensor:
    return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().sum()
