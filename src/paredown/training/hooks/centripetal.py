"""Centripetal SGD: the channels of a cluster get one gradient and are drawn to their mean (Ding et al. 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from paredown.core.errors import UserError
from paredown.core.hooks import FitState, Hooks
from paredown.core.keys import identity
from paredown.surgery.clustering import averages, clusters_of
from paredown.surgery.width_budget import Scope, scoped

PLAIN = 0.1  # of the strength, for scales, shifts and biases
BIAS_RATE = 2.0  # of the learning rate


@dataclass
class Clustered:
    """A parameter whose `rows` (n, m) belong to the channels of `cluster` (n,), `number` in all."""

    parameter: Tensor
    rows: Tensor
    cluster: Tensor
    number: int
    strength: float

    def draw(self) -> None:
        """Replace the gradient g by M g + strength (w - M w), M the mean over a channel's cluster (equation 5)."""
        if self.parameter.grad is not None:
            device = self.parameter.device  # Lightning has moved it since the start
            self.rows, self.cluster = self.rows.to(device), self.cluster.to(device)
            weight, gradient = self.parameter.detach()[self.rows], self.parameter.grad[self.rows]
            self.parameter.grad[self.rows] = self._mean(gradient) + self.strength * (weight - self._mean(weight))

    def _mean(self, values: Tensor) -> Tensor:
        return averages(values, self.cluster, self.number)[self.cluster]


@identity("centripetal")
@dataclass
class Centripetal(Hooks):
    """The channels of each group in `widths` form so many clusters, of the network as the stage `of` left it (None: as
    the plan began). Their filters become equal whatever the data, at `strength`; scales, shifts and biases too, at a
    tenth. These get no weight decay, and biases twice the learning rate, as in the authors' code."""

    strength: float
    widths: Mapping[str, int]
    of: str | None = None
    scope: Scope | tuple[str, ...] = "all"

    @torch.no_grad()
    def start(self, fit: FitState) -> None:
        """Find the clusters, and all parameters that follow them."""
        before = fit.context.earlier(self.of)
        groups = scoped(before, self.scope)
        clusters = clusters_of(before.module, groups, self.widths)
        self._clustered = []
        for group in (group for group in groups if group.name in clusters):
            for member in (member for member in group.members if member.axis == "out"):
                for parameter in fit.model.get_submodule(member.layer).parameters(recurse=False):
                    strength = self.strength if parameter.dim() > 1 else PLAIN * self.strength
                    cluster, number = clusters[group.name], self.widths[group.name]
                    self._clustered.append(Clustered(parameter, member.table, cluster, number, strength))

    def optimizer(self, fit: FitState) -> torch.optim.Optimizer:
        """Return SGD with the recipe's values. Raise UserError for a recipe with another optimiser."""
        recipe = fit.recipe
        require_sgd(recipe.optimizer)
        kinds: dict[str, list[Tensor]] = {"weight": [], "scale": [], "bias": []}
        for name, parameter in fit.model.named_parameters():
            plain = "bias" if name.rpartition(".")[2] == "bias" else "scale"
            kinds["weight" if parameter.dim() > 1 else plain].append(parameter)
        decays = {"weight": recipe.weight_decay}
        rates = {"bias": BIAS_RATE * recipe.learning_rate}
        groups = [
            {"params": found, "lr": rates.get(kind, recipe.learning_rate), "weight_decay": decays.get(kind, 0.0)}
            for kind, found in kinds.items()
            if found
        ]
        every = cast(list[Tensor], groups)
        return torch.optim.SGD(
            every, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov, foreach=True
        )

    def after_backward(self, fit: FitState) -> None:
        """Replace the gradients."""
        for clustered in self._clustered:
            clustered.draw()


def require_sgd(optimizer: str) -> None:
    """Raise UserError for an optimiser that would move the channels of a cluster differently."""
    if optimizer != "sgd":
        raise UserError(f"c_sgd needs recipe.optimizer=sgd: {optimizer} scales each weight's step by itself")
