"""SVD-NAS's search (Yu and Bouganis, WACV 2023; what the paper leaves open as in its authors' code): theta of every
searched layer is learnt, two candidates at a time, with all weights frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paredown.core.distributed import broadcast
from paredown.core.hooks import FitState, Hooks
from paredown.core.keys import identity
from paredown.layers.mixed_op import MixedConv2d, mixed_ops

TOTAL_PERIOD = 10  # epochs between two updates of the total


@identity("svd_nas/search")
@dataclass
class ArchitectureSearch(Hooks):
    """Minimisation of cross-entropy times (ln P / ln `total`)^`beta` over thetas. P is the expected MACs of the
    targeted layers, of which `macs` are the dense ones; those that are not searched count in full.

    The images are `images` of `split` (None: all), `passes` times an epoch. The temperature starts at `temperature`
    and is multiplied by `decay` after each epoch. `update_total` puts, every 10 epochs, the whole network's
    MACs under a design drawn by theta instead of `total`, as the released code does for ResNet-18.
    """

    beta: float
    macs: Mapping[str, int]
    total: int
    temperature: float
    decay: float
    split: str
    images: int | None = None
    passes: int = 1
    update_total: bool = False

    def start(self, fit: FitState) -> None:
        """Freeze all but thetas, and use batch norm's running statistics."""
        fit.model.requires_grad_(False).eval()
        for layer in mixed_ops(fit.model).values():
            layer.theta.requires_grad_()
        self._total = float(self.total)
        self._before: dict[str, Tensor] = {}  # the two thetas of each layer before a step

    def state_dict(self) -> dict[str, Any]:
        """Return the MACs that the loss compares with, which `update_total` moves."""
        return {"total": self._total}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up."""
        self._total = state["total"]

    def loader(self, data: Any, batch_size: int, seed: int, **place: Any) -> Any:
        """Return images that the network was not trained on."""
        return data.chosen_loader(self.split, batch_size, seed, **place, images=self.images, passes=self.passes)

    def images_per_epoch(self, data: Any) -> int:
        """Return how many images an epoch of the search has."""
        return (self.images or int(data.sizes[self.split])) * self.passes

    def optimizer(self, fit: FitState) -> torch.optim.Optimizer:
        """Make Adam with coupled weight decay. Thetas that were not drawn move too: their gradient is the decay's
        alone, which Adam scales up to whole steps. The published search works so."""
        thetas = [layer.theta for layer in mixed_ops(fit.model).values()]
        return torch.optim.Adam(thetas, fit.recipe.learning_rate, weight_decay=fit.recipe.weight_decay)

    @torch.no_grad()
    def before_step(self, fit: FitState) -> None:
        """Draw two candidates for each layer at the epoch's temperature, the same on every rank."""
        layers = mixed_ops(fit.model)
        for layer in layers.values():
            layer.temperature = self.temperature * self.decay**fit.epoch
        pairs = broadcast(torch.stack([torch.multinomial(layer.probabilities(), 2) for layer in layers.values()]))
        for (name, layer), (first, second) in zip(layers.items(), pairs.tolist(), strict=True):
            layer.pair = (first, second)
            self._before[name] = layer.theta[[first, second]].clone()

    def loss(self, fit: FitState, images: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        """Multiply cross-entropy by the cost factor."""
        layers = mixed_ops(fit.model)
        expected = torch.stack([layer.expected for layer in layers.values()]).sum() + self._left(layers)
        return loss * cost_factor(expected, self._total, self.beta)

    @torch.no_grad()
    def after_step(self, fit: FitState) -> None:
        """Give each pair the probability mass back that it had, and note the largest theta."""
        for name, layer in mixed_ops(fit.model).items():
            assert layer.pair is not None
            pair = list(layer.pair)
            layer.theta[pair] -= mass_shift(layer.theta[pair], self._before[name], layer.temperature)
            layer.choice.copy_(layer.theta.argmax())
            layer.pair, layer.expected = None, layer.expected.detach()

    @torch.no_grad()
    def after_epoch(self, fit: FitState) -> dict[str, float]:
        """Return the mean entropy of theta's softmax as a fraction of the uniform one's, P expected under
        it, P of the largest thetas, and the index of each layer's."""
        layers = mixed_ops(fit.model)
        shares = {name: layer.theta.softmax(0) for name, layer in layers.items()}
        entropies = [entropy(share) / math.log(len(share)) for share in shares.values()]
        left = self._left(layers)
        expected = left + sum(float(shares[name].double() @ layer.costs.double()) for name, layer in layers.items())
        chosen = left + sum(layer.points[int(layer.choice)][3] for layer in layers.values())
        picks = broadcast(torch.stack([torch.multinomial(share, 1) for share in shares.values()]))
        drawn = sum(layer.points[int(pick)][3] for layer, pick in zip(layers.values(), picks, strict=True))
        if self.update_total and fit.epoch % TOTAL_PERIOD == TOTAL_PERIOD - 1:
            self._total = float(self.total - sum(self.macs.values()) + left + drawn)
        rows = {f"choice/{name}": float(layer.choice) for name, layer in layers.items()}
        return rows | {
            "search/entropy": sum(entropies) / len(entropies),
            "search/expected_macs": expected,
            "search/choice_macs": float(chosen),
        }

    def _left(self, layers: Mapping[str, MixedConv2d]) -> int:
        """Sum the MACs of the targeted layers that are not searched."""
        return sum(macs for name, macs in self.macs.items() if name not in layers)


def cost_factor(expected: Tensor, total: float, beta: float) -> Tensor:
    """Compute (ln P / ln P0)^beta, of MACs."""
    return (expected.log() / math.log(total)) ** beta


def mass_shift(new: Tensor, old: Tensor, temperature: float) -> Tensor:
    """Compute what to subtract from thetas `new` (k,) to give them the mass, sum exp(theta / T), of `old` (k,)."""
    return temperature * ((new / temperature).logsumexp(0) - (old / temperature).logsumexp(0))


def entropy(shares: Tensor) -> float:
    """Compute the entropy of probabilities `shares` (k,), in nats."""
    return float(torch.special.entr(shares).sum())
