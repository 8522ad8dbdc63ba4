"""Soft pruning: filters that are set to zero after each epoch and train on in the next (He et al. 2018, 2019)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from paredown.core.distributed import broadcast
from paredown.core.hooks import FitState, Hooks
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.graph.channels import Group
from paredown.surgery.filters import Choice, chosen, conv_of, filter_groups, soft


@identity("soft_filters")
@dataclass
class SoftFilters(Hooks):
    """Before every `every`-th evaluation and the last, the filters that `choice` names go to zero, all but `keep` of
    each convolution; `by_norm` of them by norm first.

    With `batch_norm` the scale and shift behind them are zero too, while the network is evaluated: an epoch trains with
    those that it had, because behind a ReLU a channel that is zero gets no gradient and could not return. For the same
    reason nothing is zero before the first epoch. `frozen`: the choice is made once, before the first step, and its
    filters stay zero, with `batch_norm` their scales and shifts too.
    """

    keep: Mapping[str, int]
    choice: Choice = "l2"
    by_norm: Mapping[str, int] = field(default_factory=dict)
    batch_norm: bool = True
    frozen: bool = False
    every: int = 1

    def start(self, fit: FitState) -> None:
        """Find the filters; set those to zero that are to stay zero."""
        self._network = Network(fit.model, {}, fit.context.data.input_shape)
        groups = {group.name: group for group in filter_groups(self._network)}
        self._groups: list[Group] = [groups[name] for name in self.keep]
        self._aside: dict[str, Tensor] = {}  # scales and shifts of the epoch that was evaluated, by parameter
        if self.frozen:
            self._rows = self._choose()
            self._zero()

    def before_step(self, fit: FitState) -> None:
        """Give batch norms their scales and shifts back; a frozen choice is read from the weights of a resumed fit."""
        if fit.step_in_epoch == 0 and self.frozen:
            self._rows = self._zeros()
        for name, values in self._aside.items():
            fit.model.get_parameter(name).data.copy_(values)
        self._aside = {}

    def after_backward(self, fit: FitState) -> None:
        """Keep frozen filters out of the gradient's norm."""
        for parameter, rows in self._parameters() if self.frozen else ():
            if parameter.grad is not None:
                parameter.grad[rows] = 0.0

    def after_step(self, fit: FitState) -> None:
        """Set frozen filters to zero again: momentum of an earlier fit or weight decay may have moved them."""
        if self.frozen:
            self._zero()

    def before_evaluation(self, fit: FitState) -> None:
        """Set the filters of the new choice to zero."""
        if self.frozen or not ((fit.epoch + 1) % self.every == 0 or fit.epoch + 1 == fit.recipe.epochs):
            return
        self._rows = self._choose()
        if self.batch_norm:
            self._aside = {name: values.clone() for name, values in self._norms()}
        self._zero()

    def state_dict(self) -> dict[str, Any]:
        """Return the scales and shifts that the next epoch begins with."""
        return {"aside": {name: values.cpu() for name, values in self._aside.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them up."""
        self._aside = dict(state["aside"])

    def _choose(self) -> dict[str, list[tuple[str, Tensor]]]:
        gone = {}
        for group in self._groups:
            weight = conv_of(self._network, group).weight
            number = group.size - self.keep[group.name]
            gone[group.name] = broadcast(chosen(weight, number, self.choice, self.by_norm.get(group.name, 0)))
        return soft(self._network, self._groups, gone)

    def _zeros(self) -> dict[str, list[tuple[str, Tensor]]]:
        """Return the choice that the weights hold."""
        rows = {g.name: conv_of(self._network, g).weight.detach().flatten(1) for g in self._groups}
        gone = {name: (weight == 0).all(1).nonzero()[:, 0].cpu() for name, weight in rows.items()}
        return soft(self._network, self._groups, gone)

    def _parameters(self) -> list[tuple[Tensor, Tensor]]:
        """Return the parameters that the choice zeroes, with their rows."""
        found: list[tuple[Tensor, Tensor]] = []
        for (conv, index), *behind in self._rows.values():
            for layer, rows in ((conv, index), *(behind if self.batch_norm else ())):
                module = self._network.module.get_submodule(layer)
                found += [(p, rows.to(p.device)) for p in module.parameters(recurse=False)]
        return found

    @torch.no_grad()
    def _zero(self) -> None:
        for parameter, rows in self._parameters():
            parameter[rows] = 0.0

    def _norms(self) -> list[tuple[str, Tensor]]:
        layers = dict.fromkeys(layer for _, *behind in self._rows.values() for layer, _ in behind)
        found = []
        for layer in layers:
            for name, parameter in self._network.module.get_submodule(layer).named_parameters(recurse=False):
                found.append((f"{layer}.{name}", cast(Tensor, parameter.detach())))
        return found
