"""Latency of the deployed and the dense network in turns, by batch size and precision, and layer by layer."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from paredown.bench.layers import by_layer
from paredown.bench.quiet import Quiet, Watch
from paredown.bench.request import Request
from paredown.bench.subject import Subject
from paredown.cost import count
from paredown.cost.latency import device_name, in_turns, use_threads
from paredown.runtime.rivals import DENSE, DEPLOYED, Candidate, candidates, fastest
from paredown.training.machine import device_of, has_bf16_units

LAYERS_AT = 32  # layers are timed at the batch size nearest to this
log = logging.getLogger("paredown")
NORMAL = 1.96  # standard deviations of a 95 % interval


@dataclass(frozen=True)
class Time:
    """The median in ms per batch and its 95 % confidence interval, for the fastest variant of a network in one
    precision."""

    network: str
    precision: str
    variant: str
    ms: float
    low: float
    high: float


@dataclass(frozen=True)
class SpeedUp:
    """The median over turns of dense time / deployed time and its 95 % confidence interval; `rounds` are the medians of
    single rounds. `dense` and `deployed` are the precisions compared."""

    dense: str
    deployed: str
    value: float
    low: float
    high: float
    rounds: list[float]


@dataclass(frozen=True)
class Batch:
    """The measurements with `batch` images at once, over `turns` turns."""

    batch: int
    turns: int
    times: list[Time]
    speed_ups: list[SpeedUp]


@dataclass(frozen=True)
class Bench:
    """A finished bench; `layers` are ms per batch of `layers_batch` images by layer, dense and deployed."""

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
        """Return plain JSON data."""
        return asdict(self) | {"is_quiet": self.quiet.quiet}


def bench(request: Request, subject: Subject) -> Bench:
    """Time `subject` as `request` specifies. Other load is watched only after the backends are chosen."""
    device = device_of(request.device)
    with use_threads(request.threads):
        everything = {
            batch: fastest(_candidates(request, subject, batch, device), request.seconds / 2) for batch in request.batch
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
    """Return the forms of both networks in every precision with hardware support."""
    seconds = request.tune if request.deploy == "auto" else None
    precisions = ["fp32", *(["bf16"] if has_bf16_units(device) else [])]
    networks = ((DENSE, subject.dense), (DEPLOYED, subject.network))
    return [
        form
        for name, network in networks
        for precision in precisions
        for form in candidates(name, network, batch, device, precision, seconds)
    ]


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


def _compared(ms: Mapping[tuple[str, str], float]) -> list[tuple[str, str]]:
    """Return the pairs of precisions (dense, deployed) to compare: equal ones, the fastest of each, and the fastest
    dense one with fp32."""
    precisions = list(dict.fromkeys(precision for _, precision in ms))
    best = {name: min(precisions, key=lambda one: ms[name, one]) for name in ("dense", "deployed")}
    pairs = [(one, one) for one in precisions] + [(best["dense"], best["deployed"]), (best["dense"], "fp32")]
    return list(dict.fromkeys(pairs))


def _time(candidate: Candidate, seconds: Sequence[float]) -> Time:
    names = (candidate.network, candidate.precision, candidate.variant)
    return Time(*names, *(1e3 * value for value in median_interval(seconds)))


def _speed_up(dense: str, deployed: str, rounds: Sequence[Sequence[float]]) -> SpeedUp:
    ratios = [ratio for part in rounds for ratio in part]
    return SpeedUp(dense, deployed, *median_interval(ratios), [statistics.median(part) for part in rounds])


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the median of `values` and its distribution-free 95 % confidence interval: the number of values below the
    median is binomial, so order statistics bound it (Conover, Practical Nonparametric Statistics, section 3.2)."""
    ordered, n = sorted(values), len(values)
    half = NORMAL * math.sqrt(n) / 2
    low, high = max(0, math.floor(n / 2 - half)), min(n - 1, math.ceil(n / 2 + half))
    return statistics.median(ordered), ordered[low], ordered[high]


def _spread(rounds: Sequence[float]) -> float:
    return (max(rounds) - min(rounds)) / statistics.median(rounds)
