"""Controls: networks that cost what a finished experiment's does, know nothing of its method, and train for as long."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from paredown import blueprint
from paredown.config import ControlKind
from paredown.cost import count
from paredown.errors import UserError
from paredown.layers import _factors, _families
from paredown.layers.masked import Masked
from paredown.plan import Context, Edit, Fit, Method, Network, Recipe, Stage, Target

# what makes a model wider, and the step by which it may be: ResNets and ShuffleNetV2, D- and S-CONV, 3-FC
WIDTHS = {"width": 1 / 16, "alpha": 1, "hidden": 1}
RANKED = ("low_rank", "conv_pair", "grouped_pair")


@dataclass(frozen=True)
class Control(Method):
    """The control `kind` of the experiment `of` (its key; `name`: its run): `edit` makes the network that trains."""

    kind: ControlKind
    of: str
    name: str
    edit: Edit
    epochs: int

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Make the network, then train it by the recipe for all the epochs that the experiment's plan has."""
        return [self.edit, Fit("train", replace(recipe, epochs=self.epochs))]


def control(kind: ControlKind, of: str, name: str, point: Network, dense: Network, plan: Sequence[Stage]) -> Control:
    """The control of the network `point`, which `plan` made from `dense`. UserError where there is nothing to control,
    and for a kind that its layers or its model do not allow."""
    if not point.blueprint:
        raise UserError(f"control={kind} has nothing to control: {name} rewrote no layer")
    epochs = sum(stage.recipe.epochs for stage in plan if isinstance(stage, Fit))
    if not epochs:
        raise UserError(f"control={kind} trains for as long as {name} did, and that trained nothing")
    if kind == "dense":
        edit = Edit(
            "narrow", narrow, {"architecture": nearest_width(dense, count(point.module, point.input_shape).macs)}
        )
    else:
        layers = budgets(point) if kind == "random" else even_budgets(point, dense)
        edit = Edit(kind, rebuild, {"layers": layers})
    return Control(kind, of, name, edit, epochs)


def rebuild(network: Network, context: Context, layers: Mapping[str, Mapping[str, Any]]) -> None:
    """Rewrite each of `layers` as its blueprint says, with weights of its own; one with `weights` keeps so many of the
    dense start's, drawn at random by the stage's seed."""
    generator = torch.Generator().manual_seed(context.seed)
    for name, entry in layers.items():
        arguments = {key: value for key, value in entry.items() if key != "weights"}
        blueprint.rewrite(network, name, **arguments)
        if "weights" in entry:
            layer = cast(Masked, network.module.get_submodule(name))
            layer.set_mask(random_mask(_allowed(layer), entry["weights"], generator).to(layer.mask.device))


def narrow(network: Network, context: Context, architecture: Mapping[str, Any]) -> None:
    """Put a freshly initialised network of `architecture` in the place of `network`."""
    smaller = blueprint.create(architecture, network.input_shape)
    network.module, network.architecture = smaller.module, smaller.architecture


def random_mask(allowed: Tensor, weights: int, generator: torch.Generator) -> Tensor:
    """A mask of exactly `weights` of the places that are true in `allowed`, each set of them as likely."""
    places = allowed.cpu().flatten().nonzero()[:, 0]
    mask = torch.zeros(allowed.numel(), dtype=torch.bool)
    mask[places[torch.randperm(len(places), generator=generator)[:weights]]] = True
    return mask.reshape(allowed.shape)


def budgets(point: Network) -> dict[str, dict[str, Any]]:
    """What each rewritten layer of `point` may have, and nothing of which: a masked one its number of weights, any
    other its blueprint. Factors that were trained in their own form become the two plain layers that ship."""
    return {name: _budget(entry, point.module.get_submodule(name)) for name, entry in point.blueprint.items()}


def _budget(entry: Mapping[str, Any], layer: nn.Module) -> dict[str, Any]:
    if isinstance(layer, Masked):
        kind = "sparse" if entry["kind"] == "sparse" else "masked"
        return {"kind": kind, "weights": layer.active_weights()}
    return {**entry, "kind": "conv_pair"} if entry["kind"] == "low_rank" else dict(entry)


def even_budgets(point: Network, dense: Network) -> dict[str, dict[str, Any]]:
    """`budgets` spread evenly at the same MACs: one density in all masked layers, one fraction of the full rank in all
    that have a rank. UserError for a layer that has neither."""
    found = budgets(point)
    costs = {layer.name: layer for layer in count(point.module, point.input_shape).layers if layer.name in found}
    masked = [name for name, entry in found.items() if "weights" in entry]
    ranked = [name for name, entry in found.items() if entry["kind"] in RANKED]
    if other := [name for name in found if name not in (*masked, *ranked)]:
        raise UserError(f"control=uniform knows masks and ranks: {other[0]} is {found[other[0]]['kind']}")
    weights = _even_weights(point, dense, masked)
    highest = {name: _full_rank(dense.module.get_submodule(name), found[name]) for name in ranked}
    per_rank = {name: costs[name].macs // found[name]["rank"] for name in ranked}
    ranks = even_ranks(highest, per_rank, sum(costs[name].macs for name in ranked))
    given = {name: {"weights": number} for name, number in weights.items()}
    given |= {name: {"rank": rank} for name, rank in ranks.items()}
    return {name: entry | given[name] for name, entry in found.items()}


def even_ranks(highest: Mapping[str, int], per_rank: Mapping[str, int], limit: int) -> dict[str, int]:
    """One fraction of the full ranks `highest` for all layers, each of which costs `per_rank`: the largest whose cost
    is at most `limit`, to within one rank of one layer. At least 1 each."""
    ranks = dict.fromkeys(highest, 1)
    # rank r of a layer rounds the fractions from (r - 1/2) / highest on; equal ones rise one layer after the other
    rises = sorted(((rank - 0.5) / full, name) for name, full in highest.items() for rank in range(2, full + 1))
    left = limit - sum(per_rank.values())
    for _, name in rises:
        left -= per_rank[name]
        if left < 0:
            break
        ranks[name] += 1
    return ranks


def _even_weights(point: Network, dense: Network, names: Sequence[str]) -> dict[str, int]:
    own, whole = ({layer.name: layer for layer in count(n.module, n.input_shape).layers} for n in (point, dense))
    density = sum(own[name].macs for name in names) / max(1, sum(whole[name].macs for name in names))
    return {name: max(1, round(density * whole[name].weights)) for name in names}


def _allowed(layer: Masked) -> Tensor:
    """Where a mask of `layer` may be true: all but a locally connected layer's dead taps."""
    return cast(Tensor, getattr(layer, "live", torch.ones_like(layer.mask))).expand_as(layer.mask)


def _full_rank(layer: nn.Module, entry: Mapping[str, Any]) -> int:
    if "family" in entry:
        return _families.full_rank(_families.kernel_shape(layer), entry["family"], entry["groups"])  # type: ignore[arg-type]
    return _factors.full_rank(layer, entry["form"])  # type: ignore[arg-type]


def nearest_width(dense: Network, macs: int) -> dict[str, Any]:
    """The architecture of `dense` with fewer channels, at the width that costs nearest to `macs`. UserError for a model
    that has no width."""
    name = next((name for name in WIDTHS if name in dense.architecture), None)
    if name is None:
        model = dense.architecture["_target_"].rpartition(".")[2]
        raise UserError(f"control=dense needs a model with a width ({', '.join(WIDTHS)}): {model} has none")
    step = WIDTHS[name]
    every = [number * step for number in range(1, round(dense.architecture[name] / step) + 1)]
    widths = [width for width in every if _allows(dense, name, width)]
    place = bisect_left(widths, macs, key=lambda width: _macs(dense, name, width))  # MACs rise with the width
    nearest = min(widths[max(0, place - 1) : place + 1], key=lambda width: abs(_macs(dense, name, width) - macs))
    return {**dense.architecture, name: nearest}


def _allows(dense: Network, name: str, width: float) -> bool:
    try:
        with torch.device("meta"):
            blueprint.create({**dense.architecture, name: width}, dense.input_shape)
    except UserError:
        return False
    return True


def _macs(dense: Network, name: str, width: float) -> int:
    with torch.random.fork_rng(devices=[]):
        network = blueprint.create({**dense.architecture, name: width}, dense.input_shape)
    return count(network.module, network.input_shape).macs
