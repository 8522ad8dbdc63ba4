"""Deployed and dense in turns: whole, at several batch sizes and precisions, and layer by layer."""

from __future__ import annotations

import copy
import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from paredown import execution
from paredown.bench.layers import Candidate, by_layer
from paredown.bench.quiet import Quiet, Watch
from paredown.bench.request import Request
from paredown.bench.subject import Subject
from paredown.cost import count
from paredown.cost.latency import device_name, in_turns, use_threads
from paredown.plan import Network
from paredown.training.machine import device_of, has_bf16_units

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}
LAYOUTS = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
LAYERS_AT = 32  # the batch for the times layer by layer, or the nearest to it
log = logging.getLogger("paredown")
NORMAL = 1.96  # standard deviations of a 95 % interval


@dataclass(frozen=True)
class Time:
    """The median in ms a batch with its 95 % interval, of the faster form of a network in one precision."""

    network: str
    precision: str
    form: str
    ms: float
    low: float
    high: float


@dataclass(frozen=True)
class SpeedUp:
    """The median of the single turns' ratios, dense time over deployed time, with its 95 % interval; `rounds`: the same
    of each round alone. `dense` and `deployed` name the precisions compared."""

    dense: str
    deployed: str
    value: float
    low: float
    high: float
    rounds: list[float]


@dataclass(frozen=True)
class Batch:
    """Everything measured with `batch` images at once, over `turns` turns."""

    batch: int
    turns: int
    times: list[Time]
    speed_ups: list[SpeedUp]


@dataclass(frozen=True)
class Bench:
    """The whole bench; `layers`: ms a batch of `layers_batch` images by layer, dense and deployed."""

    name: str
    run: str | None
    device: str
    threads: int
    deploy: str
    macs: int
    dense_macs: int
    batches: list[Batch]
    layers_batch: int
    layers: list[dict[str, Any]]
    quiet: Quiet

    def data(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self) | {"is_quiet": self.quiet.quiet}


def bench(request: Request, subject: Subject) -> Bench:
    """Time `subject` as `request` says. Choosing forms is not part of the time that is watched for quiet."""
    device = device_of(request.device)
    with use_threads(request.threads):
        everything = {
            batch: _fastest(_candidates(request, subject, batch, device), request.seconds / 2)
            for batch in request.batches
        }
        watch = Watch()
        batches = [_timed(request, batch, candidates) for batch, candidates in everything.items()]
        near = min(everything, key=lambda batch: abs(batch - LAYERS_AT))
        pair = {one.network: one for one in everything[near] if one.precision == "fp32"}
        layers = by_layer(subject.dense, pair, request.seconds)
        spread = max(_spread(speed_up.rounds) for batch in batches for speed_up in batch.speed_ups)
        quiet = Quiet(watch.others(), watch.load, spread)
        threads = torch.get_num_threads()
    macs = [count(network.module, network.input_shape).macs for network in (subject.network, subject.dense)]
    run = subject.trained.run_id if subject.trained else None
    where = (device_name(device), threads, request.deploy)
    return Bench(subject.name, run, *where, macs[0], macs[1], batches, near, layers, quiet)


def _candidates(request: Request, subject: Subject, batch: int, device: torch.device) -> list[Candidate]:
    """Both networks in every precision that runs in hardware: plain in both layouts, and as `execution` chooses."""
    precisions = ["fp32", *(["bf16"] if has_bf16_units(device) else [])]
    found = []
    for name, network in (("dense", subject.dense), ("deployed", subject.network)):
        for precision in precisions:
            kind = PRECISIONS[precision]
            if request.deploy == "auto":
                found.append(_chosen(name, precision, network, batch, device, request.tune))
            if name == "dense" or request.deploy == "plain":
                plain = execution.build(network, {}).to(device, kind)
                images = torch.randn(batch, *network.input_shape, device=device).to(kind)
                for form, layout in LAYOUTS.items():
                    own = copy.deepcopy(plain).to(memory_format=layout)
                    found.append(Candidate(name, precision, form, own, images.contiguous(memory_format=layout)))
    return found


def _chosen(name: str, precision: str, network: Network, batch: int, device: torch.device, seconds: float) -> Candidate:
    log.info("choosing forms: %s %s, batch %d", name, precision, batch)
    kind = PRECISIONS[precision]
    module = execution.optimise(network, batch, device, kind, seconds).module
    return Candidate(
        name, precision, "chosen", module, torch.randn(batch, *network.input_shape, device=device).to(kind)
    )


def _fastest(candidates: Sequence[Candidate], seconds: float) -> list[Candidate]:
    """Of each network and precision the form that is faster here, dense and deployed of one precision side by side:
    the fewer run in a turn, the less a machine that changes its pace comes between the two that are compared."""
    turns = in_turns([(candidate.module, candidate.images) for candidate in candidates], seconds)
    medians = [statistics.median(column) for column in zip(*turns, strict=True)]
    ranked = sorted(zip(medians, range(len(candidates)), strict=True), reverse=True)
    best = {(one.precision, one.network): one for one in (candidates[index] for _, index in ranked)}
    return [best[own] for own in sorted(best, key=lambda own: (own[0] != "fp32", own[1]))]


def _timed(request: Request, batch: int, candidates: Sequence[Candidate]) -> Batch:
    log.info("timing batch %d", batch)
    pairs = [(candidate.module, candidate.images) for candidate in candidates]
    rounds = [in_turns(pairs, request.seconds) for _ in range(request.rounds)]
    turns = [turn for part in rounds for turn in part]
    place = {(one.network, one.precision): index for index, one in enumerate(candidates)}
    times = [_time(one, [turn[index] for turn in turns]) for index, one in enumerate(candidates)]
    ratios = {}
    for dense, deployed in _compared({(one.network, one.precision): one.ms for one in times}):
        one, other = place["dense", dense], place["deployed", deployed]
        ratios[dense, deployed] = [[turn[one] / turn[other] for turn in part] for part in rounds]
    return Batch(batch, len(turns), times, [_speed_up(*names, parts) for names, parts in ratios.items()])


def _compared(medians: Mapping[tuple[str, str], float]) -> list[tuple[str, str]]:
    """Precisions to compare, dense and deployed: equal ones, then the best of each, then fp32 with the best dense."""
    precisions = list(dict.fromkeys(precision for _, precision in medians))
    best = {name: min(precisions, key=lambda one: medians[name, one]) for name in ("dense", "deployed")}
    pairs = [(one, one) for one in precisions] + [(best["dense"], best["deployed"]), (best["dense"], "fp32")]
    return list(dict.fromkeys(pairs))


def _time(candidate: Candidate, seconds: Sequence[float]) -> Time:
    names = (candidate.network, candidate.precision, candidate.form)
    return Time(*names, *(1e3 * value for value in median_interval(seconds)))


def _speed_up(dense: str, deployed: str, rounds: Sequence[Sequence[float]]) -> SpeedUp:
    whole = [ratio for part in rounds for ratio in part]
    return SpeedUp(dense, deployed, *median_interval(whole), [statistics.median(part) for part in rounds])


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval, from the order of `values` alone: how many lie below a median is binomial, so
    the interval goes from one ordered value to another (Conover, Practical Nonparametric Statistics, section 3.2)."""
    ordered, n = sorted(values), len(values)
    half = NORMAL * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    return statistics.median(ordered), ordered[low], ordered[high]


def _spread(rounds: Sequence[float]) -> float:
    return (max(rounds) - min(rounds)) / statistics.median(rounds)
