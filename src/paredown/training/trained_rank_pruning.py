"""Trained rank pruning (Xu et al. 2020, TRP): training that cuts the rank of the dense weights as it goes, and draws
them towards a small nuclear norm with its sub-gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

from paredown.layers._factors import Form, kernel, matrix
from paredown.layers.low_rank import energy_rank
from paredown.plan import Hooks


@torch.no_grad()
def truncated(matrices: Tensor, energy: float) -> tuple[Tensor, Tensor, list[int]]:
    """Of `matrices` M = U S V (B, rows, columns): the products U_r S_r V_r and U_r V_r, in float64 and M's shape, and
    each rank r, the least that removes at most the fraction `energy` of the squared singular values. U_r V_r is a
    sub-gradient of the nuclear norm at U_r S_r V_r. Raises FloatingPointError for entries that are not finite."""
    if matrices.shape[1] > matrices.shape[2]:
        product, direction, ranks = truncated(matrices.mT, energy)
        return product.mT, direction.mT, ranks
    exact = matrices.double()  # which also keeps autocast away
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


def spectra(network: nn.Module, form: Form, names: Sequence[str]) -> dict[str, Tensor]:
    """The singular values (r,), largest first, in float64, of the weights of the convolutions `names`."""
    weights = {name: _weight(network, name).detach().double() for name in names}
    return {name: torch.linalg.svdvals(matrix(weight, form)).cpu() for name, weight in weights.items()}


@dataclass
class _Now:
    """What a step needs to know of the one before, and the penalty of the truncation."""

    epoch_start: int = 0
    next_step: int | None = None
    directions: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainedRankPruning(Hooks):
    """At every `period`-th step of an epoch, from its first on: truncate the weights of the convolutions `names`
    (unless `truncate` is off) before the step, and add `decay` times `truncated`'s U_r V_r to its gradient."""

    form: Form
    names: tuple[str, ...]
    energy: float
    decay: float
    period: int
    truncate: bool = True
    _now: _Now = field(default_factory=_Now, init=False, repr=False, compare=False)

    def before_step(self, network: nn.Module, step: int) -> None:
        """Truncate, where `step` is one of those."""
        now = self._now
        if step != now.next_step:  # an epoch begins: after another one, or where a killed fit goes on
            now.epoch_start = step
        now.next_step = step + 1
        due = (step - now.epoch_start) % self.period == 0
        now.directions = self._truncate(network) if due else {}

    def penalties(self, network: nn.Module, progress: float) -> dict[str, Tensor]:
        """At the steps that truncate, `decay` times the sum of <U_r V_r, W>, the nuclear norm there. As part of the
        loss its gradient goes the way of all others: scaled in fp16, averaged by DDP, clipped."""
        products = [(direction * _weight(network, name)).sum() for name, direction in self._now.directions.items()]
        return {"nuclear_norm": self.decay * torch.stack(products).sum()} if products and self.decay else {}

    def after_epoch(self, network: nn.Module, epoch: int) -> dict[str, float]:
        """`nuclear_norm/sum`, and `rank/truncated`: the summed rank to which the next truncation cuts."""
        self._now.next_step = None
        values = spectra(network, self.form, self.names).values()
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
            products, across, _ = truncated(torch.stack([matrix(w, self.form) for w in weights]), self.energy)
            if self.truncate:
                _overwrite(weights, products, self.form)
            for name, weight, direction in zip(names, weights, across, strict=True):
                directions[name] = torch.empty_like(weight).copy_(kernel(direction, self.form, shape))
        return directions


def _overwrite(weights: Sequence[Tensor], products: Tensor, form: Form) -> None:
    products = products.to(weights[0].dtype).contiguous()
    if distributed.is_initialized():  # another processor may round otherwise, and DDP compares no weights
        distributed.broadcast(products, src=0)
    for weight, product in zip(weights, products, strict=True):
        weight.copy_(kernel(product, form, tuple(weight.shape)))


def _weight(network: nn.Module, name: str) -> Tensor:
    return network.get_submodule(name).weight  # type: ignore[return-value]
