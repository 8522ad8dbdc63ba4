"""The regularisers of SVD training (Yang et al. 2020): orthogonal factors, sparse singular values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from paredown.layers.low_rank import energy_rank
from paredown.plan import Hooks
from paredown.surgery.low_rank import low_rank_layers

Sparsifier = Literal["hoyer", "l1", "hoyer_square"]
ENERGIES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)


def factor_orthogonality(factor: Tensor) -> Tensor:
    """||G - I||_F^2 / q^2 of a matrix (rows, columns), where G (q, q) is its smaller Gram matrix."""
    tall = factor.shape[0] > factor.shape[1]
    gram = factor.T @ factor if tall else factor @ factor.T
    return (gram - torch.eye(len(gram), dtype=gram.dtype, device=gram.device)).square().sum() / len(gram) ** 2


def hoyer(s: Tensor) -> Tensor:
    """||s||_1 / ||s||_2 - 1 of singular values (r,): 0 if one alone is not 0, sqrt(r) - 1 if all are equal; 0 for
    s = 0."""
    return _ratio(s) - (s != 0).any().to(s)


def hoyer_square(s: Tensor) -> Tensor:
    """||s||_1^2 / ||s||_2^2 - 1 of singular values (r,); 0 for s = 0."""
    return _ratio(s).square() - (s != 0).any().to(s)


def l1(s: Tensor) -> Tensor:
    """||s||_1 of singular values (r,)."""
    return s.abs().sum()


SPARSIFIERS: dict[str, Callable[[Tensor], Tensor]] = {"hoyer": hoyer, "l1": l1, "hoyer_square": hoyer_square}


@dataclass(frozen=True)
class FactorOrthogonality(Hooks):
    """`decay` times the sum of `factor_orthogonality` over U and V of all factorised layers. Logs the sum itself and
    the summed rank that pruning at a few energies would leave."""

    decay: float

    def penalties(self, network: nn.Module, progress: float) -> dict[str, Tensor]:
        """One scalar, `orthogonality`; none where no layer is factorised any more."""
        factors = [factor for layer in low_rank_layers(network).values() for factor in (layer.U, layer.V)]
        return {"orthogonality": self.decay * _sum(factor_orthogonality, factors)} if self.decay and factors else {}

    def after_epoch(self, network: nn.Module, epoch: int) -> dict[str, float]:
        """The unweighted penalty and the summed ranks."""
        layers = low_rank_layers(network).values()
        with torch.no_grad():
            loss = sum(float(factor_orthogonality(factor)) for layer in layers for factor in (layer.U, layer.V))
        spectra = [layer.s.detach().cpu() for layer in layers]
        ranks = {f"rank/at_{energy:.0e}": float(sum(energy_rank(s, energy) for s in spectra)) for energy in ENERGIES}
        return {"orthogonality/sum": loss, **ranks}


@dataclass(frozen=True)
class SingularValueSparsity(Hooks):
    """`decay` times the sum of a sparsifier over the singular values of each factorised layer."""

    decay: float
    kind: Sparsifier

    def penalties(self, network: nn.Module, progress: float) -> dict[str, Tensor]:
        """One scalar, by the name of the sparsifier."""
        values = [layer.s for layer in low_rank_layers(network).values()]
        return {self.kind: self.decay * _sum(SPARSIFIERS[self.kind], values)}


def _ratio(s: Tensor) -> Tensor:
    """||s||_1 / ||s||_2, and 0 with gradient 0 where s is 0."""
    square = s.square().sum()
    return s.abs().sum() / torch.where(square > 0, square, 1).sqrt()


def _sum(penalty: Callable[[Tensor], Tensor], tensors: Iterable[Tensor]) -> Tensor:
    """The sum of `penalty` over `tensors`, those of one shape in one batch."""
    alike: dict[torch.Size, list[Tensor]] = {}
    for tensor in tensors:
        alike.setdefault(tensor.shape, []).append(tensor)
    with torch.autocast(next(iter(alike.values()))[0].device.type, enabled=False):  # bf16 would swamp Gram - I
        return torch.stack([torch.vmap(penalty)(torch.stack(group)).sum() for group in alike.values()]).sum()
