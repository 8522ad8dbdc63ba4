"""The selection of CNN-FCF: filters' factors become 0 or 1, a given number of them 1 (Li et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from paredown.core.hooks import FitState, Hooks
from paredown.core.keys import identity
from paredown.layers.factored import FactoredConv2d, to_box, to_sphere


@identity("filter_selection")
@dataclass
class FilterSelection(Hooks):
    """Factors v of each convolution in `keep` go to {0, 1} with so many ones: the box of sum `keep` and the sphere
    through {0, 1}^n meet there, and v is drawn to both (ADMM).

    `alpha` is the part of this in the gradient of v, beside the loss; the penalty grows by `growth` in a step, up to
    `most`.
    """

    keep: Mapping[str, int]
    alpha: float = 0.99
    growth: float = 1.01
    most: float = 6.0

    def start(self, fit: FitState) -> None:
        """Find the layers."""
        layers = {name: fit.model.get_submodule(name) for name in self.keep}
        self._layers = {name: layer for name, layer in layers.items() if isinstance(layer, FactoredConv2d)}
        self._near: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def after_backward(self, fit: FitState) -> None:
        """Mix the constraints into the gradients of the factors."""
        for name, layer in self._layers.items():
            v, penalty, gradient = layer.factors.detach(), layer.penalty, layer.factors.grad
            box = to_box(v + layer.box / penalty, self.keep[name])
            sphere = to_sphere(v + layer.sphere / penalty)
            drawn = layer.box + layer.sphere + penalty * (2 * v - box - sphere)
            if gradient is not None:
                gradient.mul_(1 - self.alpha).add_(drawn, alpha=self.alpha)
            self._near[name] = box, sphere

    @torch.no_grad()
    def after_step(self, fit: FitState) -> None:
        """Take the dual steps, and raise the penalty."""
        for name, layer in self._layers.items():
            box, sphere = self._near[name]
            layer.box += layer.penalty * (layer.factors - box)
            layer.sphere += layer.penalty * (layer.factors - sphere)
            if layer.penalty < self.most:
                layer.penalty *= self.growth

    def after_epoch(self, fit: FitState) -> dict[str, float]:
        """Return how far a factor is from 0 and 1 at most."""
        gaps = [binary_gap(layer.factors.detach()) for layer in self._layers.values()]
        return {"factor/binary_gap": max(gaps, default=0.0)}


def binary_gap(factors: Tensor) -> float:
    """Return the largest distance of `factors` (n,) to the nearer of 0 and 1."""
    return float(torch.minimum(factors.abs(), (factors - 1).abs()).max())
