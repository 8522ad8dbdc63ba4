"""Trained rank pruning (Xu et al. 2020, TRP): training that cuts the rank of the dense weights as it goes, and draws
them towards a small nuclear norm with its sub-gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core.distributed import broadcast
from paredown.core.hooks import FitState, Hooks
from paredown.core.keys import identity
from paredown.layers.factorised.forms import Factorisation, kernel, matrices
from paredown.layers.factorised.svd import energy_rank


@torch.no_grad()
def truncated(stack: Tensor, energy: float) -> tuple[Tensor, Tensor, list[int]]:
    """Truncate the matrices `stack` M = U S V (B, rows, columns). Return the products U_r S_r V_r and U_r V_r, in
    float64 and M's shape, and each rank r, the least that removes at most the fraction `energy` of the squared singular
    values. U_r V_r is a sub-gradient of the nuclear norm at U_r S_r V_r. Raise FloatingPointError for entries that are
    not finite."""
    if stack.shape[1] > stack.shape[2]:
        product, direction, ranks = truncated(stack.mT, energy)
        return product.mT, direction.mT, ranks
    exact = stack.double()  # which also keeps autocast away
    if not exact.isfinite().all():
        raise FloatingPointError("training diverged: a weight to truncate is not finite")
    # U from M M^T takes half the time of an SVD; what squaring loses in float64 is less than a weight's own rounding
    squares, left = torch.linalg.eigh(exact @ exact.mT)
    ranks = [energy_rank(row, energy) for row in squares.clamp(min=0).sqrt().cpu()]
    rank, size = torch.tensor(ranks, device=left.device)[:, None, None], left.shape[2]
    left = left * (torch.arange(size, device=left.device) >= size - rank)  # eigh puts the largest last
    right = left.mT @ exact  # S V
    # nothing dropped: M itself, so that energy 0 leaves a training as it was to the last bit
    product = torch.where(rank == size, exact, left @ right)
    return product, left @ functional.normalize(right, dim=2), ranks


def spectra(network: nn.Module, factorisation: Factorisation, names: Sequence[str]) -> dict[str, Tensor]:
    """Compute the singular values (r,), largest first, in float64, of the weights of the convolutions `names`."""
    weights = {name: _weight(network, name).detach().double() for name in names}
    return {name: torch.linalg.svdvals(matrices(weight, factorisation)[0]).cpu() for name, weight in weights.items()}


@identity("trained_rank_pruning")
@dataclass
class TrainedRankPruning(Hooks):
    """At every `period`-th step of an epoch, from its first on: truncate the weights of the convolutions `names`
    (unless `truncate` is off) before the step, and add `decay` times `truncated`'s U_r V_r to its gradient."""

    factorisation: Factorisation
    names: tuple[str, ...]
    energy: float
    decay: float
    period: int
    truncate: bool = True

    def before_step(self, fit: FitState) -> None:
        """Truncate at every `period`-th step."""
        due = fit.step_in_epoch % self.period == 0
        self._directions = self._truncate(fit.model) if due else {}

    def penalties(self, fit: FitState) -> dict[str, Tensor]:
        """Return, at the steps that truncate, `decay` times the sum of <U_r V_r, W>, the nuclear norm there. As part of
        the loss its gradient is treated like all others: scaled in fp16, averaged by DDP, clipped."""
        products = [(direction * _weight(fit.model, name)).sum() for name, direction in self._directions.items()]
        return {"nuclear_norm": self.decay * torch.stack(products).sum()} if products and self.decay else {}

    def after_epoch(self, fit: FitState) -> dict[str, float]:
        """Return `nuclear_norm/sum`, and `rank/truncated`: the summed rank to which the next truncation cuts."""
        values = spectra(fit.model, self.factorisation, self.names).values()
        ranks = sum(energy_rank(s, self.energy) for s in values)
        return {"rank/truncated": float(ranks), "nuclear_norm/sum": float(sum(s.sum() for s in values))}

    @torch.no_grad()
    def _truncate(self, network: nn.Module) -> dict[str, Tensor]:
        """Overwrite the weights; returns U_r V_r by name, shaped as the weights. Layers of one shape go together."""
        alike: dict[torch.Size, list[str]] = {}
        for name in self.names:
            alike.setdefault(_weight(network, name).shape, []).append(name)
        directions = {}
        for shape, names in alike.items():
            weights = [_weight(network, name) for name in names]
            products, across, _ = truncated(torch.cat([matrices(w, self.factorisation) for w in weights]), self.energy)
            if self.truncate:
                _overwrite(weights, products, self.factorisation)
            for name, weight, direction in zip(names, weights, across, strict=True):
                directions[name] = torch.empty_like(weight).copy_(kernel(direction[None], self.factorisation, shape))
        return directions


def _overwrite(weights: Sequence[Tensor], products: Tensor, factorisation: Factorisation) -> None:
    products = products.to(weights[0].dtype).contiguous()
    broadcast(products)  # another processor may round otherwise, and DDP compares no weights
    for weight, product in zip(weights, products, strict=True):
        weight.copy_(kernel(product[None], factorisation, weight.shape))


def _weight(network: nn.Module, name: str) -> Tensor:
    return network.get_submodule(name).weight  # type: ignore[return-value]
