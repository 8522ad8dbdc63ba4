"""Masks that move in the middle of a fit: when they move, how ranks agree, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any

import torch
from annotated_types import Predicate
from torch import Tensor

from paredown.core.constraints import Before, Rule
from paredown.core.distributed import broadcast, rank, started
from paredown.core.errors import UserError
from paredown.core.hooks import FitState, Hooks
from paredown.core.keys import digest, identity
from paredown.core.recipe import Recipe
from paredown.layers.masked import Masked, allowed
from paredown.surgery import moves
from paredown.surgery.moves import Layer
from paredown.surgery.sparsify import warn_of_dead


def _in_parts(value: Any) -> Any:
    return [[0.0, value]] if isinstance(value, int) and not isinstance(value, bool) else value


def _is_period(parts: Sequence[tuple[float, int]]) -> bool:
    fractions = [fraction for fraction, _ in parts]
    rising = fractions == sorted(set(fractions)) and fractions[:1] == [0] and fractions[-1] < 1
    return rising and all(steps >= 1 for _, steps in parts)


Period = Annotated[
    tuple[tuple[float, int], ...],
    Before(_in_parts),
    Predicate(_is_period),
    Rule("steps, at least 1, or [[0, steps], [fraction of the epochs, steps], ...] with rising fractions below 1"),
]


@dataclass(frozen=True)
class Schedule:
    """The steps of a training of `epochs` of `steps` each at which masks move: every `period` steps, of the last part
    whose fraction of the epochs is over, from the fraction `begin` of all steps to `until`, but not the first step;
    with `ends` at the last one of these in any case."""

    period: Sequence[tuple[float, int]]
    begin: float
    until: float
    ends: bool
    epochs: int
    steps: int

    @property
    def first(self) -> int:
        """The step (0-based) from which periods are counted."""
        return int(self.begin * self.epochs * self.steps)

    @property
    def last(self) -> int:
        """The last step (0-based) at which masks may move."""
        whole = self.epochs * self.steps
        return min(int(self.until * whole), whole - 1)

    def due(self, step: int) -> bool:
        """Return whether masks move after `step` (0-based, of the whole fit)."""
        if not self.first < step <= self.last:
            return False
        progress = step // self.steps / self.epochs
        period = [steps for fraction, steps in self.period if fraction <= progress][-1]
        return (step - self.first) % period == 0 or (self.ends and step == self.last)

    def progress(self, step: int) -> float:
        """Return where `step` is from the first (0) to the last (1)."""
        return (step - self.first) / (self.last - self.first)

    def moves(self) -> Iterator[int]:
        """Yield the steps at which masks move."""
        return (step for step in range(self.first + 1, self.last + 1) if self.due(step))


@identity("moving_mask")
@dataclass
class MovingMask(Hooks):
    """Moves of all masked layers by `rule`, at the steps of a `Schedule` of `period`, `begin` and `until`.

    Draws follow from the stage's seed, the step and the layer: they are the same on all ranks, and after a resume. Rank
    0's masks are broadcast before they are applied. What is dropped or grows starts from zero, momentum too.
    """

    rule: moves.Rule
    period: Period
    until: float = 1.0
    begin: float = 0.0

    def check(self, recipe: Recipe, data: Any) -> None:
        """Raise UserError where masks would never move, and where a gradual rule would act all at once."""
        schedule = self._schedule_of(recipe, len(data.train_loader(recipe.batch_size, 0, "cpu")))
        span = max(0, schedule.last - schedule.first)
        wanted = 2 if self.rule.ends and span > 1 else 1
        if len(list(islice(schedule.moves(), wanted))) < wanted:
            apart = " and ".join(str(steps) for _, steps in self.period)
            raise UserError(
                f"masks would {'never move' if wanted == 1 else 'move only once'}: this training has"
                f" {recipe.epochs * schedule.steps} steps, {span} of them open to moves, and moves are {apart} steps"
                " apart (method.period): train longer, or take a smaller period"
            )

    def start(self, fit: FitState) -> None:
        """Find the masked layers, and the steps of an epoch."""
        place = {"device": fit.context.device, "rank": rank(), "world": started()}
        steps = len(fit.context.data.train_loader(fit.recipe.batch_size, fit.context.seed, **place))
        self._schedule = self._schedule_of(fit.recipe, steps)
        self._layers = {name: layer for name, layer in fit.model.named_modules() if isinstance(layer, Masked)}
        self._sizes = {name: int(allowed(layer).sum()) for name, layer in self._layers.items()}
        self._gradients: dict[str, Tensor] = {}  # at every place, of a step with a move
        self._signs: dict[str, Tensor] = {}  # that weights had first after the last move, 0 where yet none
        self._threshold, self._moved = self.rule.first_threshold(), 0
        self._dead: list[str] = []

    def before_step(self, fit: FitState) -> None:
        """Ask for the gradient at every place, or note new signs, where the rule needs that to move."""
        if self.rule.needs_signs and self._schedule.first < fit.step <= self._schedule.last:
            self._signs = {name: self._signs_of(name, layer) for name, layer in self._layers.items()}
        if self.rule.needs_gradient and self._schedule.due(fit.step):
            for layer in self._layers.values():
                layer.dense_gradient = True

    def penalties(self, fit: FitState) -> dict[str, Tensor]:
        """Return those of the rule."""
        return self.rule.penalties(self._layers, started())

    @torch.no_grad()
    def after_backward(self, fit: FitState) -> None:
        """Take the gradient at every place; the step, its clipping and its momentum see that of the mask alone."""
        if not (self.rule.needs_gradient and self._schedule.due(fit.step)):
            return
        for name, layer in self._layers.items():
            assert layer.weight.grad is not None
            self._gradients[name] = layer.weight.grad.clone()
            layer.weight.grad.mul_(layer.mask)
            layer.dense_gradient = False

    @torch.no_grad()
    def after_step(self, fit: FitState) -> None:
        """Move the masks where a move is due. Raise FloatingPointError where weights are not finite."""
        if not self._schedule.due(fit.step):
            return
        found = self.rule.moves(self._seen(fit), self._schedule.progress(fit.step), self._threshold)
        kept, masks = (agreed({name: move[part] for name, move in found.items()}) for part in (0, 1))
        dropped = []
        for name, layer in self._layers.items():
            if masks[name] is not layer.mask:
                dropped.append((layer.mask & ~kept[name]).sum())
                layer.move_mask(masks[name], fit.optimizer, kept[name])
        number = int(torch.stack(dropped).sum()) if dropped else 0
        self._threshold = self.rule.next_threshold(self._threshold, number)
        self._moved += number
        self._gradients, self._signs = {}, {}

    def after_epoch(self, fit: FitState) -> dict[str, float]:
        """Return `moved/connections`, how many weights were dropped in the epoch, `active/weights`, `density/LAYER` and
        the rule's `moved/threshold`. Warn of layers that came to have no weight."""
        active = {name: layer.active_weights() for name, layer in self._layers.items()}
        dead = [name for name, number in active.items() if not number]
        warn_of_dead([name for name in dead if name not in self._dead])
        row = {"moved/connections": float(self._moved), "active/weights": float(sum(active.values()))}
        row |= {"moved/threshold": self._threshold} if self.rule.first_threshold() else {}
        self._moved, self._dead = 0, dead
        return row | {f"density/{name}": number / self._sizes[name] for name, number in active.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the threshold, and the signs since the last move; masks and momentum are in the checkpoint, draws and
        schedule follow from the step."""
        return {"threshold": self._threshold} | ({"signs": self._signs} if self._signs else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up the threshold and the signs."""
        self._threshold = state["threshold"]
        devices = {name: layer.mask.device for name, layer in self._layers.items()}
        self._signs = {name: signs.to(devices[name]) for name, signs in state.get("signs", {}).items()}

    def _schedule_of(self, recipe: Recipe, steps: int) -> Schedule:
        return Schedule(self.period, self.begin, self.until, self.rule.ends, recipe.epochs, steps)

    def _signs_of(self, name: str, layer: Masked) -> Tensor:
        now = layer.weight.detach().sign().to(torch.int8)
        return torch.where(before == 0, now, before) if (before := self._signs.get(name)) is not None else now

    def _seen(self, fit: FitState) -> dict[str, Layer]:
        """Return what the rule sees of each layer."""
        return {name: self._seen_layer(fit, name, layer) for name, layer in self._layers.items()}

    def _seen_layer(self, fit: FitState, name: str, layer: Masked) -> Layer:
        weight = layer.weight.detach()
        if not self.rule.needs_signs and not weight.isfinite().all():  # by signs masks move after every step
            raise FloatingPointError(f"training diverged: weights of {name} are not finite")
        silent = ~layer.mask
        if hasattr(layer, "live"):
            silent &= allowed(layer)
        seed = int(digest([fit.context.seed, fit.step, name])[:15], 16)
        return Layer(weight, layer.mask, silent, seed, self._gradients.get(name), self._signs.get(name))


def agreed(masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return rank 0's `masks` on every rank; on one process the very tensors."""
    if started() == 1:
        return dict(masks)
    flat = broadcast(torch.cat([mask.flatten() for mask in masks.values()]))
    parts = flat.split([mask.numel() for mask in masks.values()])
    return {name: part.view(mask.shape) for (name, mask), part in zip(masks.items(), parts, strict=True)}
