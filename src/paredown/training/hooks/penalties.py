"""Regularisers: pure functions of a weight, and the hook that adds them to the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paredown.core.hooks import FitState, Hooks
from paredown.core.keys import identity
from paredown.layers.masked import effective_weight

# Bansal et al.'s released schedule, as fractions of a fit: from each start, the decay times this factor.
SCHEDULE = ((0.0, 1.0), (21 / 200, 1e-3), (51 / 200, 1e-4), (71 / 200, 1e-6), (121 / 200, 0.0))


def soft_orthogonality(weight: Tensor) -> Tensor:
    """Compute SO, ||W^T W - I||_F^2, W (J, N) having the filters of `weight` (N, ...) as columns (SSC, eq. 14)."""
    filters = weight.flatten(1)
    if filters.shape[0] <= filters.shape[1]:
        return distance_to_identity(filters @ filters.T)
    # equal traces of powers: the smaller Gram matrix differs by the surplus of the identities
    return distance_to_identity(filters.T @ filters) + filters.shape[0] - filters.shape[1]


def double_soft_orthogonality(weight: Tensor) -> Tensor:
    """Compute DSO, ||W^T W - I_N||_F^2 + ||W W^T - I_J||_F^2 (SSC paper, eq. 15), from the smaller Gram matrix."""
    filters = weight.flatten(1)
    return 2 * soft_orthogonality(weight) + filters.shape[1] - filters.shape[0]


@identity("soft_orthogonality")
@dataclass(frozen=True)
class SoftOrthogonality(Hooks):
    """SO or DSO (`double`) summed over all convolutions, times `decay`, times the factor that `schedule`, rising pairs
    (progress, factor) from progress 0 on, has reached. The default is Bansal et al.'s for 200 epochs, as fractions."""

    decay: float
    double: bool = False
    schedule: tuple[tuple[float, float], ...] = SCHEDULE

    def penalties(self, fit: FitState) -> dict[str, Tensor]:
        """Sum the penalty over layers, in the weights' own precision; nothing once the schedule has reached 0."""
        factor = [value for start, value in self.schedule if fit.progress >= start][-1]
        if not factor * self.decay:
            return {}
        penalty = double_soft_orthogonality if self.double else soft_orthogonality
        weights = [effective_weight(layer) for layer in fit.model.modules() if isinstance(layer, nn.Conv2d)]
        return {"dso" if self.double else "so": factor * self.decay * summed(penalty, weights)}


def summed(penalty: Callable[[Tensor], Tensor], tensors: Iterable[Tensor]) -> Tensor:
    """Sum `penalty` over `tensors`, those of one shape in one batch."""
    alike: dict[torch.Size, list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault(tensor.shape, []).append(tensor)
    with torch.autocast(next(iter(alike.values()))[0].device.type, enabled=False):  # bf16 would swamp Gram - I
        return torch.stack([torch.vmap(penalty)(torch.stack(group)).sum() for group in alike.values()]).sum()


def distance_to_identity(gram: Tensor) -> Tensor:
    """Compute ||`gram` - I||_F^2 of a square matrix."""
    return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().sum()
