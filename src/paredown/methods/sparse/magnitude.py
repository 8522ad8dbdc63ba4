"""Magnitude pruning: the smallest weights of a trained network go, the others are finetuned."""

from __future__ import annotations

from dataclasses import dataclass

from paredown.core.network import Network
from paredown.core.plan import Fit, Stage
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.methods.sparse.pruning import PruneTrained
from paredown.surgery import saliency


@dataclass(frozen=True)
class Magnitude(PruneTrained):
    """`before_training` prunes the untrained network instead, and trains once (a baseline of Frankle et al. 2021)."""

    before_training: bool = False

    def saliency(self) -> saliency.Magnitude:
        """Return |w|."""
        return saliency.Magnitude()

    def untrained(self) -> dict[str, str]:
        """Return the finetuning too where the pruning precedes the training."""
        return ({"finetune": "method.before_training=true"} if self.before_training else {}) | super().untrained()

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the stages. Raise UserError as `goal` does."""
        if not self.before_training:
            return super().plan(target, network, recipe)
        return [self.pruning(self.goal(target, network)), Fit("train", recipe)]
