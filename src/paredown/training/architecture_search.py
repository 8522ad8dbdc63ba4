"""SVD-NAS's search (Yu and Bouganis, WACV 2023; what the paper leaves open as in its authors' code): theta of every
searched layer is learnt, two candidates at a time, with all weights frozen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn

from paredown.layers.searched import SearchedConv2d, searched
from paredown.plan import Context, Hooks, Recipe


@dataclass
class _Now:
    """The two thetas of each layer before a step, and how many images an epoch has seen."""

    before: dict[str, Tensor] = field(default_factory=dict)
    images: int = 0


@dataclass(frozen=True)
class ArchitectureSearch(Hooks):
    """Minimise cross-entropy times (ln P / ln `total`)^`beta` over thetas. P is the expected MACs of the targeted
    layers, of which `macs` are the dense ones; those that are not searched count in full.

    The images are `images` of `split` (None: all), `passes` times an epoch. The temperature starts at `temperature`
    and is multiplied by `decay` after each epoch. `update_total` puts, every 10 epochs, the whole network's
    MACs under a design drawn by theta in the place of `total`, as the released code does for ResNet-18.
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
    _now: _Now = field(default_factory=_Now, init=False, repr=False, compare=False)

    def start(self, network: nn.Module, context: Context) -> None:
        """Freeze all but thetas, and use batch norm's running statistics. What changes in a search lies in buffers of
        the layers, which a checkpoint then overwrites."""
        network.requires_grad_(False).eval()
        for layer in searched(network).values():
            layer.theta.requires_grad_()
            layer.temperature.fill_(self.temperature)
            layer.total.fill_(self.total)

    def loader(self, data: Any, batch_size: int, seed: int, **place: Any) -> Any:
        """Images that the network was not trained on."""
        return data.chosen_loader(self.split, batch_size, seed, **place, images=self.images, passes=self.passes)

    def optimizer(self, network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
        """Adam with coupled weight decay. Thetas that were not drawn move too: their gradient is the decay's alone,
        which Adam scales up to whole steps. The published search works so."""
        thetas = [layer.theta for layer in searched(network).values()]
        return torch.optim.Adam(thetas, recipe.learning_rate, weight_decay=recipe.weight_decay)

    @torch.no_grad()
    def before_step(self, network: nn.Module, step: int) -> None:
        """Draw two candidates for each layer, the same on every rank."""
        layers = searched(network)
        pairs = torch.stack([torch.multinomial(layer.probabilities(), 2) for layer in layers.values()])
        if distributed.is_initialized():
            distributed.broadcast(pairs, src=0)
        for (name, layer), (first, second) in zip(layers.items(), pairs.tolist(), strict=True):
            layer.pair = (first, second)
            self._now.before[name] = layer.theta[[first, second]].clone()

    def loss(self, network: nn.Module, images: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        """Cross-entropy times the cost factor."""
        self._now.images += len(images)
        layers = searched(network)
        expected = sum(layer.expected for layer in layers.values()) + self._left(layers)
        total = next(iter(layers.values())).total
        return loss * cost_factor(expected, total, self.beta)

    @torch.no_grad()
    def after_step(self, network: nn.Module, step: int) -> None:
        """Give each pair the probability mass back that it had, and take note of the largest theta."""
        for name, layer in searched(network).items():
            assert layer.pair is not None
            pair, heat = list(layer.pair), layer.temperature
            layer.theta[pair] -= mass_shift(layer.theta[pair], self._now.before[name], heat)
            layer.choice.copy_(layer.theta.argmax())
            layer.pair, layer.expected = None, layer.expected.detach()

    @torch.no_grad()
    def after_epoch(self, network: nn.Module, epoch: int) -> dict[str, float]:
        """Cool down. Returns the mean entropy of theta's softmax as a fraction of the uniform one's, P expected under
        it, P of the largest thetas, the index of each layer's, and how many images were seen."""
        layers = searched(network)
        shares = {name: layer.theta.softmax(0) for name, layer in layers.items()}
        entropies = [entropy(share) / math.log(len(share)) for share in shares.values()]
        left = self._left(layers)
        expected = left + sum(float(shares[name].double() @ layer.costs.double()) for name, layer in layers.items())
        chosen = left + sum(layer.points[int(layer.choice)][3] for layer in layers.values())
        drawn = sum(layer.points[int(torch.multinomial(shares[name], 1))][3] for name, layer in layers.items())
        for layer in layers.values():
            layer.temperature.mul_(self.decay)
            if self.update_total and epoch % 10 == 9:
                layer.total.fill_(self.total - sum(self.macs.values()) + left + drawn)
        images, self._now.images = self._now.images, 0
        rows = {f"choice/{name}": float(layer.choice) for name, layer in layers.items()}
        return rows | {
            "search/entropy": sum(entropies) / len(entropies),
            "search/expected_macs": expected,
            "search/choice_macs": float(chosen),
            "images": float(images * _ranks()),
        }

    def _left(self, layers: Mapping[str, SearchedConv2d]) -> int:
        """MACs of the targeted layers that are not searched."""
        return sum(macs for name, macs in self.macs.items() if name not in layers)


def cost_factor(expected: Tensor, total: Tensor, beta: float) -> Tensor:
    """(ln P / ln P0)^beta, of MACs."""
    return (expected.log() / total.log()) ** beta


def mass_shift(new: Tensor, old: Tensor, temperature: Tensor) -> Tensor:
    """What to subtract from thetas `new` (k,) for their joint mass, sum exp(theta / T), to be that of `old` (k,)."""
    return temperature * ((new / temperature).logsumexp(0) - (old / temperature).logsumexp(0))


def entropy(shares: Tensor) -> float:
    """Of probabilities `shares` (k,), in nats."""
    return float(torch.special.entr(shares).sum())


def _ranks() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1
