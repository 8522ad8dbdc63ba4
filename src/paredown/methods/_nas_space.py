"""SVD-NAS's edits: opening the space of designs of the first and the second branch, pruned by FLOPs and by a proxy
task, and building the design that a search has chosen."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from paredown import blueprint
from paredown.blueprint import fingerprint, write_text
from paredown.cost import count
from paredown.errors import UserError
from paredown.layers._families import Family
from paredown.layers.searched import SearchedConv2d, searched
from paredown.methods._nas_distil import teach
from paredown.methods._post_training import EVAL_BATCH, compress
from paredown.plan import Context, Network, digest
from paredown.surgery import design_space
from paredown.surgery.design_space import ROUNDING, Branch, Candidate, Prices, candidates
from paredown.training.evaluate import evaluate

log = logging.getLogger("paredown")
MOST = 0.40  # of a layer's MACs that the second branch may come close to
Points = list[list[Any]]


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
    """Make the convolutions `names` searched layers of `candidates`; `proxy` (`ProxyTask`'s fields) tests each of these
    alone. Returns how many there were of each layer, how many are left, and the memory of it in bytes."""
    before = nbytes(network.module)
    found = listed(network, names, gamma, step, include_end, merge)
    kept = found if proxy is None else ProxyTask(network, context, **proxy).survivors(found, gamma, step, include_end)
    for name, points in kept.items():
        place(network, name, points)
    if not searched(network.module):
        raise UserError(f"no layer has a candidate left with method.gamma={list(gamma)}: widen it")
    totals = {"found": {n: len(p) for n, p in found.items()}, "kept": {n: len(p) for n, p in kept.items()}}
    log.info(
        "svd_nas: %d of %d candidates in %d layers", *(sum(totals[n].values()) for n in ("kept", "found")), len(kept)
    )
    return totals | {"bytes": {"dense": before, "searched": nbytes(network.module)}}


def listed(
    network: Network, names: Sequence[str], gamma: tuple[float, float], step: float, include_end: bool, merge: bool
) -> dict[str, Points]:
    """The `candidates` of the convolutions `names`, before accuracy has its say."""
    sizes = _output_sizes(network)
    convs = {name: network.module.get_submodule(name) for name in names}
    return {
        name: _points(candidates(conv, sizes[name], gamma, step, include_end=include_end, merge=merge))  # type: ignore[arg-type]
        for name, conv in convs.items()
    }


def open_second(network: Network, context: Context, step: float, relax: float) -> dict[str, Any]:
    """Fix the chosen first branches, less `relax` of their layers' MACs, and search second ones for what they leave
    (Algorithm S.1); layers that the first search left as they are stay so."""
    sizes, fixed, first = _output_sizes(network), {}, 0
    for name, layer in searched(network.module).items():
        family, groups, rank, macs = layer.points[int(layer.choice)]
        conv, first = restore(network, name), first + macs
        if rank is None:
            continue
        whole, per_rank = layer.points[-1][3], macs // rank
        relaxed = max(1, rank - max(1, math.floor(relax * whole / per_rank + ROUNDING)))
        most = min(1 - relaxed * per_rank / whole, MOST)
        if most <= step:
            continue
        second = candidates(conv, sizes[name], (step, most), step, include_end=False)[:-1]
        points = [[c.family, c.groups, c.rank, c.macs + relaxed * per_rank] for c in second]
        fixed[name] = {"family": family, "groups": groups, "rank": relaxed}
        place(network, name, [*points, [None, 1, None, whole]], [fixed[name]])
    if not searched(network.module):
        raise UserError("the first search left no layer to which a second branch could be added: raise method.beta")
    return {"fixed": fixed, "first_macs": first}


def build(network: Network, context: Context, keep_dense: bool = False) -> dict[str, Any]:
    """Put the chosen design in the place of each searched layer, with the dense weights beside it for a distillation
    if `keep_dense`; returns what `compress` does and, by layer, the shares of its MACs that its branches take."""
    designs = {
        name: [Branch(**branch) for branch in layer.design()] for name, layer in searched(network.module).items()
    }
    for name in designs:
        restore(network, name)
    changed = {name: design for name, design in designs.items() if design}
    log.info("svd_nas: decomposes %d of %d searched layers", len(changed), len(designs))
    macs = Prices(network, "macs")
    shares = {
        name: [b.rank * macs.per_rank(name, b.family, b.groups) / macs.before(name) for b in design] or [1.0]
        for name, design in designs.items()
    }
    return {"shares": shares} | compress(network, context, changed, teach if keep_dense else design_space.decompose)


def place(network: Network, name: str, points: Points, fixed: Sequence[dict[str, Any]] = ()) -> None:
    """Make the convolution `name` a searched layer, unless it can only stay as it is."""
    if len(points) < 2:
        return
    conv: nn.Conv2d = network.module.get_submodule(name)  # type: ignore[assignment]
    layer = SearchedConv2d(conv, points, fixed)
    layer.become(conv)
    blueprint.place(network, name, layer, "searched", points=points, fixed=list(fixed))


def restore(network: Network, name: str) -> nn.Conv2d:
    """Put the convolution back that is searched at `name`; returns it."""
    conv = searched(network.module)[name].dense()
    network.module.set_submodule(name, conv)
    del network.blueprint[name]
    return conv


class ProxyTask:
    """Top-1 on `images` fixed images of `split` with one layer at one rank, the others as they are. Ranks whose top-1
    is more than `tolerance` points below the dense network's, and those below them, leave the space.

    `legacy` goes through ranks, not fractions, and keeps what the released code keeps: from the rank behind the last
    tested one on. What was evaluated is kept in the store by the network's weights and the images.
    """

    def __init__(
        self, network: Network, context: Context, split: str, images: int, tolerance: float, legacy: bool
    ) -> None:
        self.network, self.context, self.tolerance, self.legacy = network, context, tolerance, legacy
        self.loader = list(context.data.eval_loader(split, EVAL_BATCH, context.device, images=images))
        key = digest([fingerprint(network.module), context.data.key, split, images])
        self.file: Path | None = context.shared / f"proxy-{key}.json" if context.shared else None
        self.known: dict[str, float] = json.loads(self.file.read_text()) if self.file and self.file.is_file() else {}

    def survivors(
        self, found: Mapping[str, Points], gamma: tuple[float, float], step: float, include_end: bool
    ) -> dict[str, Points]:
        """The candidates of each layer that pass, the layer itself last."""
        least = self._top1("dense") - self.tolerance
        kept = {}
        for name, points in found.items():
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
        layer = searched(self.network.module)[name]
        failed = None
        for point in reversed(points):
            layer.choice.fill_(tested.index(point))
            if self._top1("|".join(map(str, [name, *point[:3]]))) < least - ROUNDING:
                failed = point
                break
        if legacy is None:
            return points[points.index(failed) + 1 :] if failed else points
        return _at_ranks(points[0], range((failed or points[0])[2] + 1, legacy.stop, legacy.step))

    def _top1(self, name: str) -> float:
        if name not in self.known:
            self.known[name] = evaluate(self.network.module, self.loader, self.context.device)["top1"]
        return self.known[name]


def _points(found: Sequence[Candidate]) -> Points:
    return [[c.family, c.groups, c.rank, c.macs] for c in found]


def _by_grouping(points: Points) -> dict[tuple[Family, int], Points]:
    lists: dict[tuple[Family, int], Points] = {}
    for point in points[:-1]:
        lists.setdefault((point[0], point[1]), []).append(point)
    return lists


def _rank_grid(point: Sequence[Any], whole: int, gamma: tuple[float, float], step: float, include_end: bool) -> range:
    """The released code's ranks for the accuracy pruning: bounds and step each cut to whole ranks, at least 1."""
    per_rank = point[3] // point[2]
    low, high, stride = (max(1, math.floor(f * whole / per_rank + ROUNDING)) for f in (*gamma, step))
    return range(low, max(high + include_end, low + 1), stride)


def _at_ranks(point: Sequence[Any], ranks: range) -> Points:
    """`point` at other ranks."""
    return [[*point[:2], rank, rank * (point[3] // point[2])] for rank in ranks]


def _output_sizes(network: Network) -> dict[str, tuple[int, int]]:
    layers = count(network.module, network.input_shape).layers
    return {layer.name: layer.output_shape[1:] for layer in layers}  # type: ignore[misc]


def nbytes(module: nn.Module) -> int:
    """Of all parameters and buffers."""
    return sum(tensor.nbytes for tensors in (module.parameters(), module.buffers()) for tensor in tensors)
