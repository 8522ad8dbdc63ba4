"""Masks from scores: how many weights a target keeps, which, and the masked layers that hold them."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Literal, cast

import torch
from torch import Tensor

from paredown.core import blueprint
from paredown.core.distributed import broadcast
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Target
from paredown.cost import Cost, count
from paredown.layers.masked import Masked, allowed, maskable, select
from paredown.layers.replaceable import left_alone

log = logging.getLogger("paredown")
Scope = Literal["global", "layer"]
Scores = Mapping[str, Tensor]


def masked_layers(network: Network) -> dict[str, Masked]:
    """Make every convolution and linear layer of `network` a masked one, all weights active where it was dense. Return
    them by name."""
    for name, layer in maskable(network.module).items():
        if not isinstance(layer, Masked):
            blueprint.rewrite(network, name, "masked")
    return {name: cast(Masked, layer) for name, layer in maskable(network.module).items()}


def sizes(network: Network) -> dict[str, int]:
    """Return the number of weights of each layer that may be kept, by name."""
    return {name: int(allowed(layer).sum()) for name, layer in maskable(network.module).items()}


def fixed_weights(network: Network) -> int:
    """Return how many weights of convolutions and linear layers no mask reaches."""
    weights = [cast(Tensor, layer.weight) for layer in left_alone(network.module, alike=True).values()]
    return sum(weight.numel() for weight in {id(weight): weight for weight in weights}.values())


def kept_of(network: Network, sparsity: float) -> int:
    """Return how many of the weights that may be masked stay at a `sparsity` of the whole network."""
    fixed = fixed_weights(network)
    return kept_weights(sum(sizes(network).values()) + fixed, sparsity) - fixed


def kept_weights(total: int, sparsity: float) -> int:
    """Return how many of `total` weights stay at `sparsity`, rounded to the nearest, half up in what goes."""
    return total - math.floor(sparsity * total + 0.5)


def shares(wanted: Mapping[str, float], total: int, most: Mapping[str, int]) -> dict[str, int]:
    """Round `wanted` counts by layer to whole ones that sum to `total`, none above `most`: the floors, and one more
    where the remainder is largest, earlier layers first on a tie."""
    found = {name: min(math.floor(value), most[name]) for name, value in wanted.items()}
    by_remainder = sorted(wanted, key=lambda name: math.floor(wanted[name]) - wanted[name])
    while (left := total - sum(found.values())) > 0:
        free = [name for name in by_remainder if found[name] < most[name]]
        for name in free[:left]:
            found[name] += 1
    return found


def layer_counts(network: Network, sparsity: float) -> dict[str, int]:
    """Return how many weights each layer keeps at one `sparsity` for all, exact in their sum."""
    most = sizes(network)
    wanted = {name: (1 - sparsity) * size for name, size in most.items()}
    return shares(wanted, kept_weights(sum(most.values()), sparsity), most)


def require_kept(network: Network, target: Target, scope: Scope, least: int) -> None:
    """Raise UserError where `target` leaves nothing, less than `least` in each layer, or a layer without weights at one
    sparsity for all, and for a speed-up by layer."""
    most = sizes(network)
    floor = sum(min(least, size) for size in most.values())
    if target.quantity == "speed_up":
        if scope == "layer":
            raise UserError(f"method.scope=layer takes sparsity=, not {target}: a speed-up is one of the whole network")
        _require_macs(network, target, least)
        return
    kept = kept_of(network, target.value)
    if kept < max(1, floor):
        fixed = f" beside {alone} that no mask reaches" if (alone := fixed_weights(network)) else ""
        total = sum(most.values())
        raise UserError(f"{target} keeps {kept} of {total} weights{fixed}; method.least={least} needs {floor}")
    if scope == "layer":
        counts = layer_counts(network, of_masked(network, target).value)
        short = [name for name, number in counts.items() if number < max(1, min(least, most[name]))]
        if short:
            name = short[0]
            raise UserError(
                f"method.scope=layer cannot reach {target}: {name} would keep {counts[name]} of {most[name]} weights"
            )


def _require_macs(network: Network, target: Target, least: int) -> None:
    """Raise UserError where a speed-up leaves no weight, or less than `least` in each layer."""
    most, price = sizes(network), macs_per_weight(network)
    left, fixed, whole = speed_up_left(network, target, price)
    floor = sum(price[name] * min(least, size) for name, size in most.items())
    needed = max(min(price.values()), floor)
    if left < needed:
        raise UserError(
            f"{target} leaves {whole / target.value:,.0f} of {whole:,} multiply-adds, {fixed + needed:,} are needed at"
            f" least (method.least={least}{', and what no mask reaches' if fixed else ''})"
        )


def macs_per_weight(network: Network) -> dict[str, int]:
    """Return in how many multiply-adds of one image a weight of each layer takes part, by layer."""
    most, full, none = sizes(network), _layer_macs(network, True), _layer_macs(network, False)
    return {name: (full[name] - none[name]) // max(1, size) for name, size in most.items()}


def fixed_macs(network: Network) -> int:
    """Return the multiply-adds of one image that the maskable layers take whatever their masks are."""
    return sum(_layer_macs(network, False).values())


def _layer_macs(network: Network, active: bool) -> dict[str, int]:
    """Return the multiply-adds of each maskable layer with all weights active, or none."""
    layers = maskable(network.module)
    return {layer.name: layer.macs for layer in _counted(network, active).layers if layer.name in layers}


def _counted(network: Network, active: bool) -> Cost:
    """Count the multiply-adds of `network` with all weights that masks reach active, or none."""
    made = copy.deepcopy(network)
    for layer in masked_layers(made).values():
        layer.set_mask(allowed(layer) & active)
    return count(made.module, made.input_shape)


def speed_up_left(network: Network, target: Target, price: Mapping[str, int]) -> tuple[float, int, int]:
    """Return how many multiply-adds a speed-up leaves to weights that masks reach, how many others there are, and those
    of the dense network, without bases."""
    reached = sum(price[name] * size for name, size in sizes(network).items())
    full = _counted(network, True).macs
    whole = full - fixed_macs(network)
    return whole / target.value - (full - reached), full - reached, whole


def of_masked(network: Network, target: Target, price: Mapping[str, int] = MappingProxyType({})) -> Target:
    """Return the target of the layers that masks reach at which the whole network meets `target`; `price` as of
    `macs_per_weight`, for a speed-up. Raise UserError where there is none."""
    most = sizes(network)
    if target.quantity == "sparsity":
        reached, fixed = sum(most.values()), fixed_weights(network)
        return Target("sparsity", target.value * (reached + fixed) / reached) if fixed else target
    left, fixed, _ = speed_up_left(network, target, price)
    if fixed and left <= 0:
        raise UserError(f"{target} is out of reach: {fixed} multiply-adds are by no weight that a mask reaches")
    return Target("speed_up", sum(price[name] * size for name, size in most.items()) / left) if fixed else target


def affordable(scores: Scores, price: Mapping[str, int], budget: float, least: int = 0) -> int:
    """Return how many weights, in the order of `scores` (the `least` largest of each layer first), stay within
    `budget`, each at the `price` of its layer."""
    candidates = _candidates(scores)
    floor = sum(min(least, number) for number in candidates.values())
    first = select(scores, floor, least)
    flat = torch.cat([values.masked_fill(first[name], math.inf).flatten() for name, values in scores.items()])
    prices = torch.cat([torch.full((values.numel(),), price[name]) for name, values in scores.items()])
    order = flat.cpu().sort(descending=True, stable=True).indices[: sum(candidates.values())]
    return int((prices[order].cumsum(0) <= budget).sum())


def choose(
    scores: Scores,
    most: Mapping[str, int],
    target: Target,
    scope: Scope,
    least: int,
    price: Mapping[str, int],
) -> dict[str, Tensor]:
    """Return the masks by which layers of `most` weights meet `target`, of the largest `scores` (-inf: may not stay).
    `price` is what a weight of each layer costs, for a speed-up. Raise UserError where more must stay than may, and for
    scores that are not finite."""
    if target.quantity == "speed_up":
        whole = sum(price[name] * size for name, size in most.items())
        return select(scores, affordable(scores, price, whole / target.value, least), least)
    kept, there = kept_weights(sum(most.values()), target.value), _candidates(scores)
    if scope == "global" or kept > sum(there.values()):
        return select(scores, kept, least)
    # what a layer no longer has, by the rounding of an earlier sparsity, another one keeps
    counts = shares({name: (1 - target.value) * size for name, size in most.items()}, kept, there)
    return {name: select({name: values}, counts[name], least)[name] for name, values in scores.items()}


def _candidates(scores: Scores) -> dict[str, int]:
    return {name: int((~values.isneginf()).sum()) for name, values in scores.items()}


def select_masks(
    layers: Mapping[str, Masked], scores: Scores, network: Network, target: Target, scope: Scope, least: int
) -> dict[str, Tensor]:
    """Return the masks by which `network` meets `target`: the weights of the largest `scores` among those that are
    active now. Raise UserError as `choose` does."""
    active = {name: scores[name].cpu().masked_fill(~layer.mask.cpu(), -math.inf) for name, layer in layers.items()}
    price = macs_per_weight(network) if target.quantity == "speed_up" else {}
    return choose(active, sizes(network), of_masked(network, target, price), scope, least, price)


def sparsify(
    network: Network,
    scores: Callable[[Network], Scores],
    target: Target,
    scope: Scope = "global",
    least: int = 0,
    rounds: int = 1,
) -> dict[str, int]:
    """Mask all but the weights of the largest `scores`, so that `network` meets `target`; in several `rounds` what
    stays shrinks by one factor a round (Tanaka et al. 2020). Return how many weights each layer keeps, and warn of
    those that keep none. Rank 0's scores decide."""
    layers = masked_layers(network)
    for step in range(1, rounds + 1):
        found = {name: broadcast(values.contiguous()) for name, values in scores(network).items()}
        masks = select_masks(layers, found, network, partial(target, step / rounds), scope, least)
        for name, layer in layers.items():
            layer.set_mask(masks[name].to(layer.mask.device))
    kept = {name: int(layer.mask.sum()) for name, layer in layers.items()}
    warn_of_dead([name for name, number in kept.items() if not number])
    return kept


def warn_of_dead(layers: Sequence[str]) -> None:
    """Warn of `layers` that keep no weight, if any."""
    if layers:
        log.warning("%d layers keep no weight: %s (method.least=1 keeps one in each)", len(layers), ", ".join(layers))


def partial(target: Target, progress: float) -> Target:
    """Return the target after the fraction `progress` of a compression that shrinks by one factor a round."""
    if progress == 1:
        return target
    if target.quantity == "sparsity":
        return Target("sparsity", 1 - (1 - target.value) ** progress)
    return Target("speed_up", target.value**progress)
