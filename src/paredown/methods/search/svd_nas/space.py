"""SVD-NAS's edits: mixed operations of the candidates of the first and the second branch, pruned by MACs and by a proxy
task, and the design that a search has chosen."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from paredown.core import blueprint
from paredown.core.blueprint import fingerprint
from paredown.core.errors import UserError
from paredown.core.files import MADE_AGAIN, read_json, write_text
from paredown.core.hooks import Context
from paredown.core.keys import digest, identity
from paredown.core.network import Network
from paredown.core.progress import each
from paredown.layers.factorised.forms import Branch, Factorisation
from paredown.layers.mixed_op import MixedConv2d, mixed_ops
from paredown.methods.families import EVAL_BATCH, compress
from paredown.methods.search.svd_nas.candidates import ROUNDING, grid, priced
from paredown.surgery.rank_budget import DesignCost
from paredown.training.evaluate import evaluate

log = logging.getLogger("paredown")
Points = list[list[Any]]


@identity("svd_nas/open_space", version=2, kinds=["mixed_op"])
def open_space(
    network: Network,
    context: Context,
    names: Sequence[str],
    gamma: tuple[float, float],
    step: float,
    include_end: bool,
    merge: bool,
    proxy: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Replace the convolutions `names` by mixed operations of `candidates`, each of which `proxy` (`ProxyTask`'s
    fields) tests alone. Return how many each layer had and has left, the bytes of the network, and the `images` that
    the tests take, as notes."""
    before = nbytes(network.module)
    found = listed(network, names, gamma, step, include_end, merge)
    task = ProxyTask(network, context, **proxy) if proxy else None
    kept = task.survivors(found, gamma, step, include_end) if task else found
    for name, points in kept.items():
        place(network, name, points)
    if not mixed_ops(network.module):
        raise UserError(f"no layer has a candidate left with method.gamma={list(gamma)}: widen it")
    totals = {"found": {n: len(p) for n, p in found.items()}, "kept": {n: len(p) for n, p in kept.items()}}
    log.info(
        "svd_nas: %d of %d candidates in %d layers", *(sum(totals[n].values()) for n in ("kept", "found")), len(kept)
    )
    sizes = {"dense": before, "searched": nbytes(network.module)}
    return totals | {"bytes": sizes, "images": task.images_seen if task else 0}


def listed(
    network: Network, names: Sequence[str], gamma: tuple[float, float], step: float, include_end: bool, merge: bool
) -> dict[str, Points]:
    """Return the `candidates` of the convolutions `names`, before any is tested."""
    prices, fractions = DesignCost(network), grid(gamma, step, include_end)
    return {name: _points(network, name, prices, fractions, merge) for name in names}


def _points(network: Network, name: str, prices: DesignCost, fractions: Sequence[float], merge: bool = False) -> Points:
    conv = _conv(network, name)
    found = priced(conv, prices.layer(name), partial(prices.per_rank, name), fractions, merge)
    return [candidate.point() for candidate in found]


@identity("svd_nas/open_second", version=2, kinds=["mixed_op"])
def open_second(
    network: Network, context: Context, gamma: tuple[float, float], step: float, relax: float
) -> dict[str, Any]:
    """Keep the chosen first branches fixed, less `relax` of their layers' MACs, and open second ones for their errors
    (Algorithm S.1), on a grid from gamma[0] to below gamma[1] and what the first leaves of the layer's MACs; layers
    that the first search left dense stay so. Return the fixed branches, the number of candidates of each layer and the
    MACs of the first."""
    chosen = {name: layer.points[int(layer.choice)] for name, layer in mixed_ops(network.module).items()}
    for name in chosen:
        restore(network, name)
    prices, fixed = DesignCost(network), {}
    for name, (factorisation, groups, rank, _) in chosen.items():
        if rank is None:
            continue
        whole, per_rank = prices.layer(name), prices.per_rank(name, factorisation, groups)
        relaxed = max(1, rank - max(1, math.floor(relax * whole / per_rank + ROUNDING)))
        most = min(1 - relaxed * per_rank / whole, gamma[1])
        fractions = grid((gamma[0], most), step, include_end=False) if most > gamma[0] + ROUNDING else ()
        *second, last = _points(network, name, prices, fractions)
        if not second:
            log.warning("svd_nas: %s has no room for a second branch beside rank %d: it stays dense", name, relaxed)
            continue
        points = [[*design, macs + relaxed * per_rank] for *design, macs in second]
        fixed[name] = {"factorisation": factorisation, "groups": groups, "rank": relaxed}
        place(network, name, [*points, last], [fixed[name]])
    layers = mixed_ops(network.module)
    if not layers:
        raise UserError("the first search left no layer to which a second branch could be added: raise method.beta")
    found = {name: len(layer.points) for name, layer in layers.items()}
    return {"fixed": fixed, "found": found, "first_macs": sum(macs for *_, macs in chosen.values())}


@identity("svd_nas/build", kinds=["branches", "pair"])
def build(network: Network, context: Context) -> dict[str, Any]:
    """Replace each mixed operation by its chosen design. Return the notes of `compress` and, by layer, the shares of
    its MACs that its branches take."""
    designs = {
        name: [Branch(**branch) for branch in layer.design()] for name, layer in mixed_ops(network.module).items()
    }
    for name in designs:
        restore(network, name)
    changed = {name: design for name, design in designs.items() if design}
    log.info("svd_nas: decomposes %d of %d searched layers", len(changed), len(designs))
    macs = DesignCost(network)
    shares = {
        name: [b.rank * macs.per_rank(name, b.factorisation, b.groups) / macs.layer(name) for b in design] or [1.0]
        for name, design in designs.items()
    }
    return {"shares": shares} | compress(network, context, changed)


def place(network: Network, name: str, points: Points, fixed: Sequence[dict[str, Any]] = ()) -> None:
    """Replace the convolution `name` by a mixed operation, unless its only candidate is the dense layer."""
    if len(points) < 2:
        return
    conv = _conv(network, name)
    layer = MixedConv2d(conv, points, fixed)
    layer.set_weight_(conv)
    blueprint.place(network, name, layer, "mixed_op", points=points, fixed=list(fixed))


def restore(network: Network, name: str) -> nn.Conv2d:
    """Replace the mixed operation `name` by its dense convolution; return it."""
    conv = mixed_ops(network.module)[name].dense()
    network.module.set_submodule(name, conv)
    del network.blueprint[name]
    return conv


class ProxyTask:
    """Top-1 on `images` fixed images of `split` with one layer at one rank, the others dense. Ranks whose top-1 is more
    than `tolerance` points below the dense network's, and those below them, leave the space.

    `legacy` goes through ranks, not fractions, and keeps the ranks that the released code keeps: all above the first
    that fails. Accuracies are stored under a key of the network's weights and the images.
    """

    def __init__(
        self, network: Network, context: Context, split: str, images: int, tolerance: float, legacy: bool
    ) -> None:
        self.network, self.context, self.tolerance, self.legacy = network, context, tolerance, legacy
        self.loader = list(context.data.eval_loader(split, EVAL_BATCH, context.device, images=images))
        self.asked: set[str] = set()  # of accuracies, whichever experiment measured them first
        key = digest([fingerprint(network.module), context.data.key, split, images])
        self.file: Path | None = context.shared / f"proxy-{key}.json" if context.shared else None
        self.known: dict[str, float] = (
            read_json(self.file, dict[str, float], MADE_AGAIN) if self.file and self.file.is_file() else {}
        )

    def survivors(
        self, found: Mapping[str, Points], gamma: tuple[float, float], step: float, include_end: bool
    ) -> dict[str, Points]:
        """Return the candidates of each layer that pass, the dense layer last."""
        least = self._top1("dense") - self.tolerance
        kept = {}
        for name, points in each(found.items(), "candidates"):
            lists, grids = _by_grouping(points), {}
            if self.legacy:
                whole = points[-1][3]
                grids = {pair: _rank_grid(ps[0], whole, gamma, step, include_end) for pair, ps in lists.items()}
                lists = {pair: _at_ranks(lists[pair][0], grid) for pair, grid in grids.items()}
            tested = [point for ps in lists.values() for point in ps]
            place(self.network, name, [*tested, points[-1]])
            passed = [p for pair, ps in lists.items() for p in self._passed(name, tested, ps, least, grids.get(pair))]
            if tested:
                restore(self.network, name)
            kept[name] = [*passed, points[-1]]
            if self.file:
                self.file.parent.mkdir(parents=True, exist_ok=True)
                write_text(self.file, json.dumps(self.known))
        return kept

    def _passed(self, name: str, tested: Points, points: Points, least: float, legacy: range | None) -> Points:
        layer = mixed_ops(self.network.module)[name]
        failed = None
        for point in reversed(points):
            layer.choice.fill_(tested.index(point))
            if self._top1("|".join(map(str, [name, *point[:3]]))) < least - ROUNDING:
                failed = point
                break
        if legacy is None:
            return points[points.index(failed) + 1 :] if failed else points
        return _at_ranks(points[0], range((failed or points[0])[2] + 1, legacy.stop, legacy.step))

    @property
    def images_seen(self) -> int:
        """The number of images that the accuracies asked for so far take."""
        return len(self.asked) * sum(len(labels) for _, labels in self.loader)

    def _top1(self, name: str) -> float:
        self.asked.add(name)
        if name not in self.known:
            self.known[name] = evaluate(self.network.module, self.loader, self.context.device)["top1"]
        return self.known[name]


def _conv(network: Network, name: str) -> nn.Conv2d:
    conv = network.module.get_submodule(name)
    assert isinstance(conv, nn.Conv2d), f"{name} is a {type(conv).__name__}"
    return conv


def _by_grouping(points: Points) -> dict[tuple[Factorisation, int], Points]:
    lists: dict[tuple[Factorisation, int], Points] = {}
    for point in points[:-1]:
        lists.setdefault((point[0], point[1]), []).append(point)
    return lists


def _rank_grid(point: Sequence[Any], whole: int, gamma: tuple[float, float], step: float, include_end: bool) -> range:
    """Return the released code's ranks for the accuracy pruning: bounds and step in whole ranks, at least 1."""
    per_rank = point[3] // point[2]
    low, high, stride = (max(1, math.floor(f * whole / per_rank + ROUNDING)) for f in (*gamma, step))
    return range(low, max(high + include_end, low + 1), stride)


def _at_ranks(point: Sequence[Any], ranks: range) -> Points:
    return [[*point[:2], rank, rank * (point[3] // point[2])] for rank in ranks]


def nbytes(module: nn.Module) -> int:
    """Return the bytes of all parameters and buffers of `module`."""
    return sum(tensor.nbytes for tensors in (module.parameters(), module.buffers()) for tensor in tensors)
