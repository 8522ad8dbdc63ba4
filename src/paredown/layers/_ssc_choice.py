"""Choosing SSC's (g, p) for a whole network: exact counts over all pairs up to 64, then a fixed order of preference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from torch import nn

from paredown.errors import UserError, nearest
from paredown.layers._ssc_pattern import Kernel, Parity, clip, count, dead_inputs, nonzeros

LARGEST = 64  # of g and of p
TOLERANCE = 0.005  # of sparsity: half a percentage point
SPEED_UP_TOLERANCE = 0.02  # relative; at a speed-up of 4 the same half point of the MACs
SHORTCUTS = {"shortcut", "downsample"}  # how the models here and torchvision's name a projection shortcut

Scope = Literal["conv_fc", "conv_only"]
Pair = tuple[int, int]
Triple = tuple[int, int, int]  # g, p, p_1x1


@dataclass(frozen=True)
class Policy:
    """Which layers become sparse, and with which kernels. Depthwise, grouped and linear layers always stay dense.

    `replace_first`: the first convolution too; `replace_shortcuts`: 1 x 1 projection shortcuts too; `pointwise_only`:
    nothing but 1 x 1 convolutions (the paper's setting for MobileNetV2 and ShuffleNetV2, section 4.2).
    """

    replace_first: bool = False
    replace_shortcuts: bool = True
    pointwise_only: bool = False
    parity: Parity = "halves"
    kernel: Kernel = "parity"


@dataclass(frozen=True)
class Choice:
    """What (g, p) makes of a network; unpacks as `g, p = choice`.

    `layers` maps each replaced layer to its own (g, p) after clipping, `dead_inputs` those that leave input channels
    unread to (unread, all). `sparsity` is counted in the `scope` asked for, `sparsity_other_scope` in the other;
    `speed_up` is the ratio of MACs where output sizes were given. `tail` is the sparser (g, p, p_1x1) of the layers
    nearest the output, where one pair alone could not meet the target.
    """

    g: int
    p: int
    p_1x1: int
    layers: Mapping[str, Pair]
    sparsity: float
    sparsity_other_scope: float
    scope: Scope
    dead_inputs: Mapping[str, Pair]
    speed_up: float | None = None
    tail: Triple | None = None

    def __iter__(self) -> Iterator[int]:
        return iter((self.g, self.p))


def choose(
    model: nn.Module,
    sparsity: float | None = None,
    scope: Scope = "conv_fc",
    speed_up: float | None = None,
    sizes: Mapping[str, int] | None = None,
    policy: Policy | None = None,
) -> Choice:
    """The (g, p) that bring `model` to `sparsity` (within 0.005) or to `speed_up` (within 2 %), by exact counting.

    Among the pairs that do: no dead inputs, then a g that divides the layers' widths (every channel meets K x K kernels,
    and the layer can be packed), then the nearest, then gcd(p, g-1) = 1, then g near p, then the smaller g.
    Where no pair does, the layers nearest the output take a sparser pair than the rest. `speed_up` needs the layers'
    output `sizes` (height x width by name). Raises UserError naming the nearest value in reach.
    """
    goal = _goal(sparsity, speed_up)
    if speed_up is not None and sizes is None:
        raise UserError("a target speed_up needs the output sizes of the layers: sizes={name: height * width}")
    policy = policy or Policy()
    layers = _layers(model, policy, _checked(scope))
    space = _Space(layers, policy, sizes if speed_up is not None else None)
    head, tail = space.search(goal)
    pairs = {layer.name: layer.pair(head) for layer in layers if layer.replaced}
    if tail:
        _move_tail(pairs, layers, tail, policy, space, goal)
    return _describe(layers, pairs, head, tail, policy, scope, sizes)


def apply_pair(
    model: nn.Module,
    g: int,
    p: int,
    p_1x1: int | None = None,
    scope: Scope = "conv_fc",
    sizes: Mapping[str, int] | None = None,
    policy: Policy | None = None,
) -> Choice:
    """What a pair of one's own makes of `model`; `p_1x1`, for the 1 x 1 convolutions, is `p` unless given.

    Raises UserError for values below 0, for g = p = 0, and for p = 0 under g > 1: kernels would link each class of
    channels (mod g) with itself only, and the network would fall into g parts that never meet.
    """
    triple = (g, p, max(p, 1) if p_1x1 is None else p_1x1)
    if g < 0 or p < 0 or g == p == 0 or triple[2] < 1:
        raise UserError(f"SSC with g={g}, p={p}, p_1x1={p_1x1}: at least 0, 0 and 1, and not both g and p 0")
    if p == 0 and g > 1:
        raise UserError(f"SSC with g={g}, p=0 splits the network into {g} parts that never meet: p must be at least 1")
    policy = policy or Policy()
    layers = _layers(model, policy, _checked(scope))
    pairs = {layer.name: layer.pair(triple) for layer in layers if layer.replaced}
    return _describe(layers, pairs, triple, None, policy, scope, sizes)


@dataclass(frozen=True)
class _Layer:
    name: str
    role: Literal["spatial", "pointwise", "dense", "linear"]
    weights: int
    inputs: int
    outputs: int
    size: int
    counted: bool

    @property
    def replaced(self) -> bool:
        return self.role in ("spatial", "pointwise")

    def pair(self, triple: Triple) -> Pair:
        g, p, p_1x1 = triple
        own = clip(0, p_1x1, self.inputs) if self.role == "pointwise" else clip(g, p, self.inputs)
        return int(own[0]), int(own[1])

    def kept(self, pair: Pair | None, policy: Policy) -> int:
        if pair is None:
            return self.weights
        return nonzeros(self.inputs, self.outputs, self.size, *pair, policy.parity, policy.kernel)


@dataclass(frozen=True)
class _Goal:
    text: str
    removed: float  # fraction of the weights or MACs
    tolerance: float
    by_macs: bool


class _Space:
    """Every (g, p, p_1x1) tried, flat, with the exact number of weights (or MACs, given `sizes`) it keeps."""

    def __init__(self, layers: Sequence[_Layer], policy: Policy, sizes: Mapping[str, int] | None) -> None:
        self.layers = [layer for layer in layers if layer.counted]
        self.replaced = [layer for layer in layers if layer.replaced]
        self.price = {layer.name: sizes[layer.name] if sizes else 1 for layer in layers}
        self.total = sum(layer.weights * self.price[layer.name] for layer in self.layers)
        self.g, self.p, self.p_1x1 = self._triples()
        self.kept = sum((self._kept(layer, policy) for layer in self.layers), np.zeros(len(self.g), dtype=np.int64))

    def _triples(self) -> tuple[np.ndarray, ...]:
        widths = {layer.inputs for layer in self.replaced if layer.role == "pointwise"}
        spatial = any(layer.role == "spatial" for layer in self.replaced)
        triples = [
            (g, p, p_1x1)
            for g in (range(1, LARGEST + 1) if spatial else (0,))
            for p in range(1, LARGEST + 1 if g != 1 else 2)  # g=1 leaves nothing over, p would thin 1 x 1 layers alone
            for p_1x1 in _pointwise_spacings(p, widths)
        ]
        return tuple(np.array(triples).T)

    def _kept(self, layer: _Layer, policy: Policy) -> np.ndarray:
        if not layer.replaced:
            return np.full(len(self.g), layer.weights * self.price[layer.name])
        wanted = (0 * self.g, self.p_1x1) if layer.role == "pointwise" else (self.g, self.p)
        g, p = clip(*wanted, layer.inputs)
        kept = count(layer.inputs, layer.outputs, layer.size, g, p, policy.parity, policy.kernel)
        return kept * self.price[layer.name]

    def search(self, goal: _Goal) -> tuple[Triple, Triple | None]:
        """The best triple for `goal`; or the best denser one, and the best sparser one for the output's end."""
        budget = (1 - goal.removed) * self.total
        near = np.abs(self.kept - budget) <= goal.tolerance * self.total + 1e-6
        if near.any():
            return self._best(near, budget), None
        if not (self.kept > budget).any() or not (self.kept < budget).any():
            raise self._out_of_reach(goal)
        return self._best(self.kept > budget, budget), self._best(self.kept < budget, budget)

    def _best(self, subset: np.ndarray, budget: float) -> Triple:
        index = np.flatnonzero(subset)
        g, p, p_1x1 = self.g[index], self.p[index], self.p_1x1[index]
        uneven = np.round(np.abs(np.log(p / np.maximum(g, 1))), 9)
        keys = (p_1x1, p_1x1 != p, g, uneven, np.gcd(p, np.abs(g - 1)) != 1, np.abs(self.kept[index] - budget))
        ranked = [self._triple(int(i)) for i in index[np.lexsort(keys)]]
        whole = [triple for triple in ranked if not any(_unread(self.replaced, triple))]
        return next((triple for triple in whole if _divides(self.replaced, triple)), (whole or ranked)[0])

    def _triple(self, index: int) -> Triple:
        return int(self.g[index]), int(self.p[index]), int(self.p_1x1[index])

    def _out_of_reach(self, goal: _Goal) -> UserError:
        sparsest = goal.removed > 1 - self.kept.min() / self.total
        index = int(self.kept.argmin() if sparsest else self.kept.argmax())
        kept = int(self.kept[index])
        value = f"speed_up={self.total / kept:.4g}" if goal.by_macs else f"sparsity={1 - kept / self.total:.4f}"
        g, p, p_1x1 = self._triple(index)
        return UserError(
            f"{goal.text} is out of SSC's reach on this network: the nearest in reach is {value} "
            f"(method.g={g} method.p={p} method.p_1x1={p_1x1})"
        )


def _goal(sparsity: float | None, speed_up: float | None) -> _Goal:
    if sparsity is not None and speed_up is None:
        return _Goal(f"sparsity={sparsity:g}", sparsity, TOLERANCE, by_macs=False)
    if speed_up is not None and sparsity is None:
        return _Goal(f"speed_up={speed_up:g}", 1 - 1 / speed_up, SPEED_UP_TOLERANCE / speed_up, by_macs=True)
    raise UserError(f"SSC is chosen by one of sparsity and speed_up, not by sparsity={sparsity}, speed_up={speed_up}")


def _checked(scope: str) -> str:
    if scope not in get_args(Scope):
        raise UserError(f"scope={scope!r}: {nearest(scope, get_args(Scope))}")
    return scope


def _pointwise_spacings(p: int, widths: Iterable[int]) -> list[int]:
    """`p` itself and, where they divide all `widths`, the powers of two on both sides of it; `p` alone for no widths."""
    below = 1 << (p.bit_length() - 1)
    powers = {power for power in (below, 2 * below) if all(width % power == 0 for width in widths)}
    return [p, *sorted(powers - {p})] if widths and p != below else [p]


def _unread(layers: Iterable[_Layer], triple: Triple) -> Iterator[int]:
    return (dead_inputs(layer.inputs, layer.outputs, *layer.pair(triple)) for layer in layers)


def _divides(layers: Iterable[_Layer], triple: Triple) -> bool:
    """Whether every input channel meets as many K x K kernels as any other: g divides each layer's width."""
    pairs = ((layer.inputs, layer.pair(triple)[0]) for layer in layers if layer.role == "spatial")
    return all(inputs % g == 0 for inputs, g in pairs if g)


def _move_tail(
    pairs: dict[str, Pair], layers: Sequence[_Layer], tail: Triple, policy: Policy, space: _Space, goal: _Goal
) -> None:
    kept = {layer.name: layer.kept(pairs.get(layer.name), policy) * space.price[layer.name] for layer in space.layers}
    for layer in reversed([layer for layer in layers if layer.replaced]):
        if sum(kept.values()) <= (1 - goal.removed) * space.total:
            return
        pairs[layer.name] = layer.pair(tail)
        kept[layer.name] = layer.kept(pairs[layer.name], policy) * space.price[layer.name]


def _describe(
    layers: Sequence[_Layer],
    pairs: Mapping[str, Pair],
    head: Triple,
    tail: Triple | None,
    policy: Policy,
    scope: Scope,
    sizes: Mapping[str, int] | None,
) -> Choice:
    kept = {layer.name: layer.kept(pairs.get(layer.name), policy) for layer in layers}
    convolutions = [layer for layer in layers if layer.role != "linear"]

    def sparsity(group: Sequence[_Layer]) -> float:
        return 1 - sum(kept[layer.name] for layer in group) / sum(layer.weights for layer in group)

    replaced = [layer for layer in layers if layer.replaced]
    counts = {layer.name: dead_inputs(layer.inputs, layer.outputs, *pairs[layer.name]) for layer in replaced}
    unread = {layer.name: (counts[layer.name], layer.inputs) for layer in replaced if counts[layer.name]}
    both = sparsity(layers), sparsity(convolutions)
    speed_up = None
    if sizes is not None:
        macs = sum(layer.weights * sizes[layer.name] for layer in layers)
        speed_up = macs / sum(kept[layer.name] * sizes[layer.name] for layer in layers)
    return Choice(*head, pairs, *(both if scope == "conv_fc" else both[::-1]), scope, unread, speed_up, tail)


def _layers(model: nn.Module, policy: Policy, scope: str) -> list[_Layer]:
    layers: list[_Layer] = []
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            sizes = (module.weight.numel(), module.in_features, module.out_features, 1)
            layers.append(_Layer(name, "linear", *sizes, counted=scope == "conv_fc"))
        elif isinstance(module, nn.Conv2d):
            sizes = (module.weight.numel(), module.in_channels, module.out_channels, module.kernel_size[0])
            layers.append(_Layer(name, _role(name, module, module is first, policy), *sizes, counted=True))
    if not any(layer.replaced for layer in layers):
        raise UserError("SSC finds no layer to replace: the network has no convolution that its policy lets it touch")
    return layers


def _role(name: str, conv: nn.Conv2d, is_first: bool, policy: Policy) -> Literal["spatial", "pointwise", "dense"]:
    if conv.groups != 1 or (is_first and not policy.replace_first):
        return "dense"
    if conv.kernel_size == (1, 1):
        return "dense" if SHORTCUTS & set(name.split(".")) and not policy.replace_shortcuts else "pointwise"
    if policy.pointwise_only:
        return "dense"
    if conv.kernel_size[0] != conv.kernel_size[1] or conv.kernel_size[0] % 2 == 0:
        raise UserError(f"SSC needs square kernels of odd size: layer {name!r} has {conv.kernel_size}")
    return "spatial"
