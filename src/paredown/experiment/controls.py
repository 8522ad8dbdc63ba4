"""Control baselines with the same cost and training budget as a finished experiment, but nothing of its method."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.core.compressed import CompressedLayer
from paredown.core.config import ControlKind
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Method, Stage
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.cost import count
from paredown.graph.labels import Axis
from paredown.layers.factorised.branches import Branches
from paredown.layers.factorised.pair import Pair
from paredown.layers.masked import Masked, allowed, random_mask
from paredown.surgery.narrowing import entries
from paredown.surgery.width_budget import QUANTITIES, Quantity, WidthCost, scoped, widths_within

# what makes a model wider, and the step by which it may be: ResNets and ShuffleNetV2, D- and S-CONV, 3-FC
WIDTHS = {"width": 1 / 16, "alpha": 1, "hidden": 1}


@dataclass(frozen=True)
class Control(Method):
    """The control `kind` of the experiment `of` (its key; `name`: its run): the network that `edit` makes, trained for
    `epochs`."""

    kind: ControlKind
    of: str
    name: str
    edit: Edit
    epochs: int

    def plan(self, target: Target | None, network: Network, recipe: Recipe) -> list[Stage]:
        """Return the edit, and the training by the recipe for as many images as the experiment's plan has seen."""
        return [self.edit, Fit("train", replace(recipe, epochs=self.epochs))]


def control(
    kind: ControlKind, of: str, name: str, point: Network, dense: Network, epochs: int, target: Target | None = None
) -> Control:
    """Return the control of the network `point`, which a plan for `target` made from `dense` with the images of
    `epochs` (`epochs_of`). Raise UserError where there is nothing to control, and for a kind that its layers or its
    model do not allow."""
    if not point.blueprint:
        raise UserError(f"control={kind} has nothing to control: {name} rewrote no layer")
    if not epochs:
        raise UserError(f"control={kind} trains for as long as {name} did, and that trained nothing")
    if kind == "dense":
        edit = smaller_dense(dense, count(point.module, point.input_shape).macs)
    else:
        quantity: Quantity = QUANTITIES.get(target.quantity, "macs") if target else "macs"
        layers = budgets(point) if kind == "random" else even_budgets(point, dense, quantity)
        edit = Edit(kind, rebuild, {"layers": layers})
    return Control(kind, of, name, edit, epochs)


def epochs_of(images: int, training_images: int) -> int:
    """Return the whole epochs over `training_images` that show about as many `images`: at least one, none for none."""
    return max(1, round(images / training_images)) if images else 0


@identity("control/rebuild", version=2, kinds=["branches", "pair", "masked", "narrow", "sparse"])
def rebuild(network: Network, context: Context, layers: Mapping[str, Mapping[str, Any]]) -> None:
    """Rewrite each of `layers` by its blueprint entry, untrained; one with `weights` keeps so many weights of the dense
    start, drawn at random by the stage's seed; factors make a weight of the size of the dense start's."""
    generator = torch.Generator().manual_seed(context.seed)
    for name, entry in layers.items():
        start = network.module.get_submodule(name)
        arguments = {key: value for key, value in entry.items() if key != "weights"}
        blueprint.rewrite(network, name, **arguments)
        layer = network.module.get_submodule(name)
        if "weights" in entry:
            masked = cast(Masked, layer)
            masked.set_mask(random_mask(allowed(masked), entry["weights"], generator).to(masked.mask.device))
        elif isinstance(layer, Pair | Branches):
            _scale_factors(layer, cast(Tensor, start.weight))


@torch.no_grad()
def _scale_factors(layer: Pair | Branches, start: Tensor) -> None:
    """Scale the weights of `layer` so that their product has the mean square of the dense `start`: that of two of
    torch's own initialisations is about a twentieth of it, with which a network trains worse."""
    factor = (start.square().mean() / layer.effective_weight().square().mean()) ** 0.25
    for parameter in layer.parameters():
        if parameter.dim() > 1:
            parameter.mul_(factor)


def smaller_dense(dense: Network, macs: int) -> Edit:
    """Return the edit that makes the dense network of about `macs`: of another width where the model has one, else with
    one fraction of the channels of all layers."""
    if any(name in dense.architecture for name in WIDTHS):
        return Edit("narrow", narrow, {"width": nearest_width(dense, macs)})
    return Edit("narrow", rebuild, {"layers": even_widths(dense, macs)})


def even_widths(dense: Network, limit: int, quantity: Quantity = "macs") -> dict[str, dict[str, Any]]:
    """Return the blueprint entries of the largest network of at most `limit` of the `quantity` with one fraction of the
    channels in all groups. Raise UserError where there is no channel to cut, or none that small."""
    groups = scoped(dense)
    widths = widths_within(WidthCost(dense, groups, quantity), limit, groups)
    gone: Counter[tuple[str, Axis]] = Counter()
    for group in groups:
        for member in group.members:
            gone[member.layer, member.axis] += (group.size - widths[group.name]) * member.table.shape[1]
    return {name: {"kind": "narrow"} | entry for name, entry in entries(dense, gone).items()}


@identity("control/narrow")
def narrow(network: Network, context: Context, width: Mapping[str, float]) -> None:
    """Replace `network` by a freshly initialised one of the same architecture but for its `width`."""
    smaller = blueprint.create({**network.architecture, **width}, network.input_shape)
    network.module, network.architecture = smaller.module, smaller.architecture


def budgets(point: Network) -> dict[str, dict[str, Any]]:
    """Return the blueprint entry of an untrained layer of the same cost (`CompressedLayer.budget`) for each rewritten
    layer of `point`."""
    layers = {name: point.module.get_submodule(name) for name in point.blueprint}
    return {
        name: layer.budget(entry) if isinstance(layer := layers[name], CompressedLayer) else dict(entry)
        for name, entry in point.blueprint.items()
    }


def even_budgets(point: Network, dense: Network, quantity: Quantity = "macs") -> dict[str, dict[str, Any]]:
    """Return `budgets` spread evenly at the same MACs or weights: one density in all masked layers, one fraction of the
    full rank in all that have a rank. Raise UserError for a layer that has neither."""
    found, cost = budgets(point), count(point.module, point.input_shape)
    if all(entry["kind"] == "narrow" for entry in found.values()):
        return even_widths(dense, getattr(cost, quantity), quantity)
    costs: dict[str, int] = {layer.name: getattr(layer, quantity) for layer in cost.layers if layer.name in found}
    masked = [name for name, entry in found.items() if "weights" in entry]
    highest = {name: rank for name in found if (rank := _full_rank(point.module.get_submodule(name)))}
    if other := [name for name in found if name not in (*masked, *highest)]:
        raise UserError(f"control=uniform knows masks and ranks: {other[0]} is {found[other[0]]['kind']}")
    weights = _even_weights({name: costs[name] for name in masked}, dense, quantity)
    per_rank = {name: costs[name] // found[name]["rank"] for name in highest}
    ranks = even_ranks(highest, per_rank, sum(costs[name] for name in highest))
    given = {name: {"weights": number} for name, number in weights.items()}
    given |= {name: {"rank": rank} for name, rank in ranks.items()}
    return {name: entry | given[name] for name, entry in found.items()}


def even_ranks(highest: Mapping[str, int], per_rank: Mapping[str, int], limit: int) -> dict[str, int]:
    """Return ranks, at least 1, at one fraction of the full ranks `highest` for all layers, each of which costs
    `per_rank`: the largest whose cost is at most `limit`, to within one rank of one layer."""
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


def _even_weights(kept: Mapping[str, int], dense: Network, quantity: Quantity) -> dict[str, int]:
    """Return the weights of each layer at the one density that leaves as much of the `quantity` as is `kept` in all."""
    whole = {layer.name: layer for layer in count(dense.module, dense.input_shape).layers if layer.name in kept}
    density = sum(kept.values()) / max(1, sum(getattr(layer, quantity) for layer in whole.values()))
    return {name: max(1, round(density * layer.weights)) for name, layer in whole.items()}


def _full_rank(layer: nn.Module) -> int | None:
    return layer.full_rank if isinstance(layer, CompressedLayer) else None


def nearest_width(dense: Network, macs: int) -> dict[str, float]:
    """Return the argument of `dense`'s architecture that makes it narrower, of the cost nearest to `macs`."""
    name = next(name for name in WIDTHS if name in dense.architecture)
    step = WIDTHS[name]
    every = [number * step for number in range(1, round(dense.architecture[name] / step) + 1)]
    widths = [width for width in every if _allows(dense, name, width)]
    place = bisect_left(widths, macs, key=lambda width: _macs(dense, name, width))  # MACs rise with the width
    nearest = min(widths[max(0, place - 1) : place + 1], key=lambda width: abs(_macs(dense, name, width) - macs))
    return {name: nearest}


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
