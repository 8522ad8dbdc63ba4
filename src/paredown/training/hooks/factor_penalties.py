"""The regularisers of SVD training (Yang et al. 2020): orthogonal factors, sparse singular values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from paredown.core.hooks import FitState, Hooks
from paredown.core.keys import identity
from paredown.layers.factorised.low_rank import low_rank_layers
from paredown.layers.factorised.svd import energy_rank
from paredown.training.hooks.penalties import distance_to_identity, summed

Sparsifier = Literal["hoyer", "l1", "hoyer_square"]
ENERGIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


def factor_orthogonality(factor: Tensor) -> Tensor:
    """Compute ||G - I||_F^2 / q^2 of a matrix (rows, columns), where G (q, q) is its smaller Gram matrix."""
    tall = factor.shape[0] > factor.shape[1]
    gram = factor.T @ factor if tall else factor @ factor.T
    return distance_to_identity(gram) / len(gram) ** 2


def hoyer(s: Tensor) -> Tensor:
    """Compute ||s||_1 / ||s||_2 - 1 of singular values (r,): 0 if one alone is not 0, sqrt(r) - 1 if all are equal;
    0 for s = 0."""
    return _ratio(s) - (s != 0).any().to(s)


def hoyer_square(s: Tensor) -> Tensor:
    """Compute ||s||_1^2 / ||s||_2^2 - 1 of singular values (r,); 0 for s = 0."""
    return _ratio(s).square() - (s != 0).any().to(s)


def l1(s: Tensor) -> Tensor:
    """Compute ||s||_1 of singular values (r,)."""
    return s.abs().sum()


SPARSIFIERS: dict[str, Callable[[Tensor], Tensor]] = {"hoyer": hoyer, "l1": l1, "hoyer_square": hoyer_square}


@identity("factor_orthogonality")
@dataclass(frozen=True)
class FactorOrthogonality(Hooks):
    """`decay` times the sum of `factor_orthogonality` over U and V of all factorised layers. Logs the sum itself and
    the summed rank that pruning at a few energies would leave."""

    decay: float

    def penalties(self, fit: FitState) -> dict[str, Tensor]:
        """Return one scalar, `orthogonality`; none where no layer is factorised any more."""
        factors = [factor for layer in low_rank_layers(fit.model).values() for factor in (layer.U, layer.V)]
        return {"orthogonality": self.decay * summed(factor_orthogonality, factors)} if self.decay and factors else {}

    def after_epoch(self, fit: FitState) -> dict[str, float]:
        """Return the unweighted penalty and the summed ranks."""
        layers = low_rank_layers(fit.model).values()
        with torch.no_grad():
            loss = sum(float(factor_orthogonality(factor)) for layer in layers for factor in (layer.U, layer.V))
        spectra = [layer.s.detach().cpu() for layer in layers]
        ranks = {f"rank/at_{energy:.0e}": float(sum(energy_rank(s, energy) for s in spectra)) for energy in ENERGIES}
        return {"orthogonality/sum": loss, **ranks}


@identity("singular_value_sparsity")
@dataclass(frozen=True)
class SingularValueSparsity(Hooks):
    """`decay` times the sum of a sparsifier over the singular values of each factorised layer."""

    decay: float
    kind: Sparsifier

    def penalties(self, fit: FitState) -> dict[str, Tensor]:
        """Return one scalar, by the name of the sparsifier."""
        values = [layer.s for layer in low_rank_layers(fit.model).values()]
        return {self.kind: self.decay * summed(SPARSIFIERS[self.kind], values)}


def _ratio(s: Tensor) -> Tensor:
    """Compute ||s||_1 / ||s||_2, and 0 with gradient 0 where s is 0."""
    square = s.square().sum()
    return s.abs().sum() / torch.where(square > 0, square, 1).sqrt()
