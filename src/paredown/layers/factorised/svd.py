"""Truncated singular value decompositions of batches of matrices, and the energy of singular values."""

from __future__ import annotations

import torch
from torch import Tensor

from paredown.core.errors import UserError


def truncated_svd(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return factors (g, rows, r) and (g, r, columns), in float64, whose products are the best approximations of
    `matrices` (g, rows, columns) at `rank`; both hold the roots of the singular values, so that they train alike."""
    left, s, right = torch.linalg.svd(matrices.double(), full_matrices=False)
    root = s[:, :rank].sqrt()
    return left[:, :, :rank] * root[:, None], root[:, :, None] * right[:, :rank]


def energy_rank(s: Tensor, energy: float) -> int:
    """Return how many of the singular values `s` (r,), in any order and of any sign, remain when at most the fraction
    `energy` of the sum of their squares is removed; at least 1. Raise UserError for an energy outside [0, 1)."""
    if not 0 <= energy < 1:
        raise UserError(f"energy={energy:g} is not in [0, 1): it is the fraction of squared singular values removed")
    return 1 + int((kept_energy(s) < 1 - energy).sum())


def kept_energy(s: Tensor) -> Tensor:
    """Return the fractions of the sum of squares that the 1, 2, ... r largest of `s` (r,) hold, in float64: in float32
    a sum can end below 1 - 2e-8. All ones where every s is 0."""
    kept = s.detach().double().square().sort(descending=True).values.cumsum(0)
    return kept / kept[-1] if kept[-1] > 0 else torch.ones_like(kept)
