"""SSC's (g, p) for a whole network: chosen for a target or given, and the sparsity that results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from paredown.core.errors import UserError
from paredown.methods.sparse.ssc.layers import Layer, Pair, Policy, Scope, Triple, dead_inputs, find_layers
from paredown.methods.sparse.ssc.search import Budget, Space

TOLERANCE = 0.005  # of sparsity: half a percentage point
SPEED_UP_TOLERANCE = 0.02  # relative; at a speed-up of 4 the same half point of the MACs


@dataclass(frozen=True)
class Choice:
    """A (g, p) for a network and its effect; unpacks as `g, p = choice`.

    `layers` maps each replaced layer to its (g, p) after clipping, `dead_inputs` each that leaves input channels unread
    to (unread, all). `sparsity` is counted in the requested `scope`, `sparsity_other_scope` in the other one;
    `speed_up` is the ratio of MACs, if output sizes were given. `tail` is the sparser (g, p, p_1x1) of the layers
    nearest to the output, if no single pair met the target.
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
    """Choose the (g, p) that bring `model` to `sparsity` (within 0.005) or to `speed_up` (within 2 %), by exact counts.

    The order of preference among pairs that meet the target: no dead inputs; spacings that divide the widths (all
    channels get equally many kernels); the nearest to the target, in steps of 0.0005 of sparsity; gcd(p, g-1) = 1; g
    near p; the smaller g. If no pair meets it, the layers nearest to the output get a sparser pair (within 0.01).
    `speed_up` needs the layers' output `sizes` (height x width by name). Raise UserError naming the nearest in reach.
    """
    budget = _budget(sparsity, speed_up)
    if budget.by_macs and sizes is None:
        raise UserError("a target speed_up needs the output sizes of the layers: sizes={name: height * width}")
    policy = policy or Policy()
    layers = find_layers(model, policy, scope)
    head, tail, pairs = Space(layers, policy, sizes if budget.by_macs else None).search(budget)
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
    """Apply a user-chosen (g, p) to `model`; `p_1x1`, for the 1 x 1 convolutions, defaults to `p`.

    Raise UserError for values below 0, for g = p = 0, and for p = 0 with g > 1: kernels would connect each residue
    class of channels (mod g) to itself only, which splits the network into g independent parts.
    """
    triple = (g, p, max(p, 1) if p_1x1 is None else p_1x1)
    if g < 0 or p < 0 or g == p == 0 or triple[2] < 1:
        raise UserError(f"SSC with g={g}, p={p}, p_1x1={p_1x1}: at least 0, 0 and 1, and not both g and p 0")
    if p == 0 and g > 1:
        raise UserError(f"SSC with g={g}, p=0 splits the network into {g} parts that never meet: p must be at least 1")
    policy = policy or Policy()
    layers = find_layers(model, policy, scope)
    pairs = {layer.name: layer.pair(triple) for layer in layers if layer.replaced}
    return _describe(layers, pairs, triple, None, policy, scope, sizes)


def _budget(sparsity: float | None, speed_up: float | None) -> Budget:
    if sparsity is not None and speed_up is None:
        return Budget(f"sparsity={sparsity:g}", sparsity, TOLERANCE, by_macs=False)
    if speed_up is not None and sparsity is None:
        return Budget(f"speed_up={speed_up:g}", 1 - 1 / speed_up, SPEED_UP_TOLERANCE / speed_up, by_macs=True)
    raise UserError(f"SSC is chosen by one of sparsity and speed_up, not by sparsity={sparsity}, speed_up={speed_up}")


def _describe(
    layers: Sequence[Layer],
    pairs: Mapping[str, Pair],
    head: Triple,
    tail: Triple | None,
    policy: Policy,
    scope: Scope,
    sizes: Mapping[str, int] | None,
) -> Choice:
    kept = {layer.name: layer.kept(pairs.get(layer.name), policy) for layer in layers}
    convolutions = [layer for layer in layers if layer.role != "linear"]

    def sparsity(group: Sequence[Layer]) -> float:
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
