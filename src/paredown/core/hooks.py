"""The interface between a method and the training loop, and what the stages of a plan may use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.recipe import Recipe


def nothing_earlier(name: str | None) -> Network:
    """Raise UserError: outside of an experiment no stage came before."""
    raise UserError(f"no earlier stage {name!r}: this stage does not run within a plan")


@dataclass(frozen=True)
class Context:
    """The surroundings of a stage: the data set, the device, the stage's seed, and a folder of the store
    for what stages share by its content (None: there is none).

    `earlier(name)` returns the network as the stage `name` of the same plan, before this one, left it (None: as the
    plan began), for rewinding, teachers and controls; UserError where there is none. A key covers all ancestors of a
    stage, so a name stands for one state.
    """

    data: Any
    device: torch.device
    seed: int
    shared: Path | None = None
    earlier: Callable[[str | None], Network] = nothing_earlier


@dataclass
class FitState:
    """A running fit as its hooks see it. `step` counts optimiser steps over the whole fit, `step_in_epoch` within the
    epoch, both and `epoch` from 0; `optimizer` is there from the first step on."""

    model: nn.Module
    context: Context
    recipe: Recipe
    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    optimizer: torch.optim.Optimizer = field(init=False)

    @property
    def progress(self) -> float:
        """The fraction of the fit's epochs that are done, in [0, 1)."""
        return self.epoch / self.recipe.epochs


class Hooks:
    """Callbacks of a method inside a `Fit`. Subclasses are dataclasses with an `@identity`: their fields are part of
    the key.

    A fit runs on copies of its hooks, so one may keep what it needs between two calls in attributes. What must survive
    a killed process goes through `state_dict` and `load_state_dict`, in the checkpoint of every epoch.
    """

    # whether a fit ends with the weights of the best top-1: an epoch's, or those that it began with
    keeps_best: bool = False
    best_on: Literal["val", "test"] = "val"  # the images of that top-1

    def check(self, recipe: Recipe, data: Any) -> None:
        """Raise UserError where the hook cannot do its part in a fit by `recipe` on the opened `data`; called when a
        plan is made."""

    def start(self, fit: FitState) -> None:
        """Prepare `fit.model`, in training mode, before the first step and before a killed fit is resumed.

        May freeze parameters, or put layers into eval mode.
        """

    def loader(self, data: Any, batch_size: int, seed: int, **place: Any) -> Any:
        """Return the batches to train on instead of the training images, or None. `place` holds device, rank and world
        as the loaders of `paredown.data.images` take them."""
        return None

    def images_per_epoch(self, data: Any) -> int | None:
        """Return how many images the batches of `loader` have in an epoch on `data`; None with its None."""
        return None

    @property
    def extra_passes(self) -> int:
        """The forward and backward passes of whole batches that the hook adds to that of every step."""
        return 0

    def optimizer(self, fit: FitState) -> torch.optim.Optimizer | None:
        """Return the optimiser to use instead of the recipe's, or None."""
        return None

    def rate(self, history: Sequence[Mapping[str, float]], within: float = 0.0) -> float | None:
        """Return the learning rate of the epoch after those of `history`, of which the fraction `within` is done, as a
        fraction of the first, instead of the recipe's schedule; 0 at the end of an epoch ends the fit; None: as the
        recipe says."""
        return None

    def before_step(self, fit: FitState) -> None:
        """Act before the forward pass of a step."""

    def loss(self, fit: FitState, images: Tensor, logits: Tensor, loss: Tensor) -> Tensor:
        """Return what to minimise instead of `loss`, the cross-entropy of a batch; penalties are added to it."""
        return loss

    def penalties(self, fit: FitState) -> dict[str, Tensor]:
        """Return scalars to add to the loss of a step, by the name they are logged under."""
        return {}

    def after_backward(self, fit: FitState) -> None:
        """Act between the backward pass and the optimiser's step: gradients are averaged over ranks and unscaled, and
        not yet clipped."""

    def after_step(self, fit: FitState) -> None:
        """Act after the optimiser's step; gradients are still those of the step."""

    def before_evaluation(self, fit: FitState) -> None:
        """Act after an epoch's last step, before the network is evaluated."""

    def after_epoch(self, fit: FitState) -> dict[str, float]:
        """Return figures of the epoch, to log beside the loss; called after the evaluation."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return what the hook must remember when a killed fit is resumed: plain data and tensors, equal on all ranks.
        Not asked of hooks that are no part of a key."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned, after `start`."""
