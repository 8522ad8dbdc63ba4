"""Moves of masks in the middle of a training: which weights are dropped, and which places grow.

The functions are pure, of the tensors of one layer; the dataclasses are the rules of methods, with their
hyperparameters, for a stage's key.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from paredown.core.constraints import Checked, Count, NonNegative, NonNegativeInt, Positive, Share
from paredown.core.keys import identity
from paredown.core.target import Goal, Target
from paredown.layers.masked import Masked, largest
from paredown.surgery.densities import allocate
from paredown.surgery.sparsify import Scope, choose, kept_weights

SPARSER, FEWER = 8, 4  # at a smaller fraction of free places, or of draws among them, drawing again takes too long
TOLERANCE, GAIN = 0.1, 2.0  # of DSR's threshold


class Move(NamedTuple):
    """A new mask of a layer, and where weights `kept` their values: a place in `mask` alone starts from zero."""

    kept: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Layer:
    """A masked layer as a rule sees it: its `weight`, `mask` and `silent` places, which may be active and are not; the
    `seed` of its draws; the `gradient` at every place and the `signs` since the last move, for rules that need them."""

    weight: Tensor
    mask: Tensor
    silent: Tensor
    seed: int
    gradient: Tensor | None = None
    signs: Tensor | None = None

    def generator(self) -> torch.Generator:
        """Make the generator of this layer's draws, on the CPU: they are the same on every machine."""
        return torch.Generator().manual_seed(self.seed)


def draw(free: Tensor, number: int, generator: torch.Generator) -> Tensor:
    """Draw a mask of `number` of the true entries of `free`, every such set equally likely, from `generator` alone.
    Raise ValueError where there are fewer."""
    flat = free.flatten()
    there = int(flat.sum())
    if number > there:
        raise ValueError(f"{number} of {there} places")
    if there * SPARSER < len(flat) or number * FEWER > there:
        places = flat.nonzero()[:, 0].cpu()[torch.randperm(there, generator=generator)[:number]]
    else:
        places = _drawn_again(flat, there, number, generator)
    mask = torch.zeros_like(flat)
    mask[places.to(mask.device)] = True
    return mask.view(free.shape)


def _drawn_again(flat: Tensor, there: int, number: int, generator: torch.Generator) -> Tensor:
    """Draw indices until `number` different ones are free: in a time that does not grow with the layer."""
    found = torch.empty(0, dtype=torch.int64)
    while len(found) < number:
        more = torch.randint(len(flat), (math.ceil(1.1 * number * len(flat) / there) + 16,), generator=generator)
        found = _distinct(torch.cat([found, more[flat[more.to(flat.device)].cpu()]]))
    return found[:number]


def _distinct(drawn: Tensor) -> Tensor:
    """Return each value of `drawn` (n,) once, in the order in which they first came."""
    values, order = drawn.sort(stable=True)
    first = torch.ones_like(values, dtype=torch.bool)
    first[1:] = values[1:] != values[:-1]
    return drawn[order[first].sort().values]


def grow(layer: Layer, dropped: Tensor, number: int) -> Tensor:
    """Draw `number` places to grow: silent ones, and where these are too few the ones just `dropped`."""
    there, generator = int(layer.silent.sum()), layer.generator()
    new = draw(layer.silent, min(number, there), generator)
    return new if number <= there else new | draw(dropped, number - there, generator)


def keep_largest(weight: Tensor, mask: Tensor, number: int) -> Tensor:
    """Return the mask of the `number` largest of the active |w|, ties to the lower index."""
    kept = mask.clone()
    kept[mask] = largest(weight[mask].abs(), number)
    return kept


def set_drops(active: int, fraction: float, one_more: bool) -> int:
    """Compute how many of `active` weights SET drops: that fraction, and in Mostafa and Wang's code `one_more`."""
    return min(active, int(fraction * active) + one_more)


def set_kept(layer: Layer, fraction: float, by_sign: bool, one_more: bool, most: int) -> Tensor:
    """Return the mask of the weights that SET keeps: all but the smallest |w|, or with `by_sign` the smallest of the
    negative and of the others, each its fraction; at most `most` go."""
    negative = layer.mask & (layer.weight < 0)
    kept = torch.zeros_like(layer.mask)
    for part in (negative, layer.mask & ~negative) if by_sign else (layer.mask,):
        active = int(part.sum())
        drops = min(set_drops(active, fraction, one_more), most)
        kept |= keep_largest(layer.weight, part, active - drops)
        most -= drops
    return kept


def dsr_kept(layer: Layer, threshold: float, least: int) -> Tensor:
    """Return the mask of the weights that DSR keeps: |w| >= `threshold`, or the `least` largest where these are
    fewer."""
    kept = layer.mask & (layer.weight.abs() >= threshold)
    floor = min(least, int(layer.mask.sum()))
    return kept if int(kept.sum()) >= floor else keep_largest(layer.weight, layer.mask, floor)


def dsr_threshold(threshold: float, dropped: int, budget: int) -> float:
    """Return the threshold of the next move: half where more than `budget` were dropped, by more than TOLERANCE of it,
    twice where fewer."""
    if dropped > (1 + TOLERANCE) * budget:
        return threshold / GAIN
    return threshold * GAIN if dropped < (1 - TOLERANCE) * budget else threshold


def dsr_growth(left: Mapping[str, int], dropped: int, free: Mapping[str, int]) -> dict[str, int]:
    """Share `dropped` places among layers in proportion to the weights `left` in them; none grows more than `free`."""
    ratios = {name: float(number) for name, number in left.items() if number}
    found = allocate(ratios, dropped, dict.fromkeys(ratios, 0), {name: free[name] for name in ratios})
    return {name: found.get(name, 0) for name in left}


def rigl_fraction(fraction: float, progress: float) -> float:
    """Compute the fraction of its weights that a layer drops: from `fraction` to 0 by half a cosine."""
    return fraction / 2 * (1 + math.cos(math.pi * progress))


def rigl_move(weight: Tensor, mask: Tensor, silent: Tensor, gradient: Tensor, number: int) -> Move:
    """Drop the `number` smallest |w|, grow as many of the largest |gradient| among the places that are not kept. A
    place that comes back at once has kept its value (Evci et al.'s code)."""
    kept = keep_largest(weight, mask, int(mask.sum()) - number)
    scores = gradient.abs().masked_fill(kept | ~(mask | silent), -math.inf)
    new = kept | largest(scores.flatten(), number).view_as(mask)
    return Move(new & mask, new)


def gradual_progress(progress: float) -> float:
    """Compute Zhu and Gupta's (2018) fraction of the final sparsity: 1 - (1 - progress)^3."""
    return 1 - (1 - progress) ** 3


class Rule(Checked, ABC):
    """A rule by which masks move. `needs_gradient` and `needs_signs` say what `Layer` must hold; with `ends`, there is
    a move at the last step of the schedule in any case."""

    section = "method"
    needs_gradient: ClassVar[bool] = False
    needs_signs: ClassVar[bool] = False
    ends: ClassVar[bool] = False

    @abstractmethod
    def moves(self, layers: Mapping[str, Layer], progress: float, threshold: float) -> dict[str, Move]:
        """Return the move of each of `layers` at `progress`, in [0, 1], of the schedule. A mask that stays is the very
        tensor."""

    def first_threshold(self) -> float:
        """Return the threshold of the first move; 0 where a rule has none."""
        return 0.0

    def next_threshold(self, threshold: float, dropped: int) -> float:
        """Return the threshold of the next move, after `dropped` weights at `threshold`."""
        return threshold

    def penalties(self, layers: Mapping[str, Masked], ranks: int) -> dict[str, Tensor]:
        """Return what is added to the loss of a step, on each of `ranks`."""
        return {}


@identity("moves/set")
@dataclass(frozen=True)
class SET(Rule):
    """Sparse evolutionary training (Mocanu et al. 2018): a fraction of each layer's weights is dropped, and as many
    grow at random in the same layer, with `back` also where one was just dropped."""

    fraction: Share = 0.1
    by_sign: bool = False
    back: bool = False
    one_more: bool = True

    def moves(self, layers: Mapping[str, Layer], progress: float, threshold: float) -> dict[str, Move]:
        """Return the moves. Without `back` no more are dropped than there are other places."""
        return {name: self._move(layer) for name, layer in layers.items()}

    def _move(self, layer: Layer) -> Move:
        active, silent = int(layer.mask.sum()), int(layer.silent.sum())
        kept = set_kept(layer, self.fraction, self.by_sign, self.one_more, active if self.back else silent)
        dropped = layer.mask & ~kept
        number = active - int(kept.sum())
        if self.back:
            return Move(kept, kept | draw(layer.silent | dropped, number, layer.generator()))
        return Move(kept, kept | grow(layer, dropped, number))


@identity("moves/dsr")
@dataclass(frozen=True)
class DSR(Rule):
    """Dynamic sparse reparameterisation (Mostafa and Wang 2019): weights below one threshold for all layers are
    dropped, and as many grow, in each layer in proportion to what is left. The threshold aims at `budget` a move."""

    budget: Count
    threshold: Positive = 1e-3
    least: NonNegativeInt = 0

    def first_threshold(self) -> float:
        """Return `threshold`."""
        return self.threshold

    def next_threshold(self, threshold: float, dropped: int) -> float:
        """Return half, once or twice the threshold."""
        return dsr_threshold(threshold, dropped, self.budget)

    def moves(self, layers: Mapping[str, Layer], progress: float, threshold: float) -> dict[str, Move]:
        """Return the moves; a layer keeps one weight at least, so that it can grow again."""
        kept = {name: dsr_kept(layer, threshold, max(1, self.least)) for name, layer in layers.items()}
        dropped = {name: layer.mask & ~kept[name] for name, layer in layers.items()}
        number = {name: int(places.sum()) for name, places in dropped.items()}
        free = {name: int(layer.silent.sum()) for name, layer in layers.items()}
        left = {name: int(places.sum()) for name, places in kept.items()}
        total = sum(number.values())
        if sum(count for name, count in free.items() if left[name]) < total:
            free = {name: count + number[name] for name, count in free.items()}
        growth = dsr_growth(left, total, free)
        return {
            name: Move(kept[name], kept[name] | grow(layer, dropped[name], growth[name]))
            for name, layer in layers.items()
        }


@identity("moves/deep_r")
@dataclass(frozen=True)
class DeepR(Rule):
    """Deep rewiring (Bellec et al. 2018) as Mostafa and Wang run it: a weight whose sign changes is dropped, and a
    random place of the layer grows; `noise` is the variance of what is added to the gradients, `l1` the decay."""

    noise: NonNegative = 0.0
    l1: NonNegative = 1e-5
    needs_signs: ClassVar[bool] = True

    def moves(self, layers: Mapping[str, Layer], progress: float, threshold: float) -> dict[str, Move]:
        """Return the moves. A weight that starts from zero has no sign to change at its first step."""
        dropped = {name: layer.mask & flipped(layer) for name, layer in layers.items()}
        numbers = torch.stack([places.sum() for places in dropped.values()]).tolist()  # one wait for the device
        return {
            name: _replaced(layer, dropped[name], number) if number else Move(layer.mask, layer.mask)
            for (name, layer), number in zip(layers.items(), numbers, strict=True)
        }

    def penalties(self, layers: Mapping[str, Masked], ranks: int) -> dict[str, Tensor]:
        """Return what has the noise, and the decay's sign(w), for a gradient. Each of the ranks draws its share: the
        mean that DDP takes of theirs has the variance `noise`."""
        found: dict[str, Tensor] = {}
        if self.noise:
            deviation = math.sqrt(self.noise * ranks)
            parts = [(torch.randn_like(layer.weight) * layer.mask * layer.weight).sum() for layer in layers.values()]
            found["noise"] = deviation * torch.stack(parts).sum()
        if self.l1:
            found["l1"] = self.l1 * torch.stack([layer.weight.abs().sum() for layer in layers.values()]).sum()
        return found


def flipped(layer: Layer) -> Tensor:
    """Return where the weight has the other sign than first after the last move; a zero has neither."""
    assert layer.signs is not None
    return layer.weight.sign() * layer.signs < 0


def _replaced(layer: Layer, dropped: Tensor, number: int) -> Move:
    kept = layer.mask & ~dropped
    return Move(kept, kept | grow(layer, dropped, number))


@identity("moves/rigl")
@dataclass(frozen=True)
class RigL(Rule):
    """The rigged lottery (Evci et al. 2020): a falling fraction of each layer's smallest weights is dropped, and the
    places of the largest gradient grow."""

    fraction: Share = 0.3
    needs_gradient: ClassVar[bool] = True

    def moves(self, layers: Mapping[str, Layer], progress: float, threshold: float) -> dict[str, Move]:
        """Return the moves; none where a gradient is not finite, a step that a gradient scaler leaves out."""
        gradients = {name: layer.gradient for name, layer in layers.items() if layer.gradient is not None}
        if not all(bool(gradient.isfinite().all()) for gradient in gradients.values()):
            return {name: Move(layer.mask, layer.mask) for name, layer in layers.items()}
        fraction = rigl_fraction(self.fraction, progress)
        return {
            name: rigl_move(layer.weight, layer.mask, layer.silent, gradients[name], int(fraction * layer.mask.sum()))
            for name, layer in layers.items()
        }


@identity("moves/gradual")
@dataclass(frozen=True)
class Gradual(Rule):
    """Gradual magnitude pruning (Zhu and Gupta 2018) to `goal`, that of the masked layers alone: the sparsity, or the
    part of the multiply-adds that is gone (each weight of a layer costs its `price`), rises by a cubic; what is dropped
    stays so."""

    goal: Goal
    scope: Scope = "global"
    least: NonNegativeInt = 0
    price: Mapping[str, int] = field(default_factory=dict)
    ends: ClassVar[bool] = True

    def moves(self, layers: Mapping[str, Layer], progress: float, threshold: float) -> dict[str, Move]:
        """Return the moves, none of which grows a place."""
        scores = {name: layer.weight.abs().masked_fill(~layer.mask, -math.inf) for name, layer in layers.items()}
        most = {name: int((layer.mask | layer.silent).sum()) for name, layer in layers.items()}
        target, active = self.now(progress), sum(int(layer.mask.sum()) for layer in layers.values())
        if target.quantity == "sparsity" and kept_weights(sum(most.values()), target.value) >= active:
            return {name: Move(layer.mask, layer.mask) for name, layer in layers.items()}  # it began sparser
        masks = choose(scores, most, target, self.scope, self.least, self.price)
        return {name: Move(mask, mask) for name, mask in masks.items()}

    def now(self, progress: float) -> Target:
        """Return the target at `progress`."""
        final, part = self.goal.number(), gradual_progress(progress)
        if progress == 1:
            return Target(self.goal.quantity, final)  # type: ignore[arg-type]
        if self.goal.quantity == "sparsity":
            return Target("sparsity", part * final)
        return Target("speed_up", 1 / (1 - part * (1 - 1 / final)))
