"""Which forms are fastest on this machine: each layer's alone, then whole networks against each other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.proxy import TraceError

from paredown.cost.latency import device_name
from paredown.errors import UserError
from paredown.execution import native
from paredown.execution.assembly import Maker, assemble
from paredown.execution.blocked import to_blocks
from paredown.execution.choices import DTYPES, FORMAT, MEMORY_FORMATS, Choices
from paredown.execution.forms import density
from paredown.execution.graph import Traced, Unit
from paredown.execution.interleaved import Interleaved, divisors, splits
from paredown.plan import Network

log = logging.getLogger("paredown")
LIBRARY = ("plain", "dense", "sparse")
HOPELESS = 1.25  # a network that takes this many times the best one's time is not timed again
FEWEST, MOST = 3, 200  # rounds
ENOUGH = 0.03  # seconds for one layer in one form


@dataclass(frozen=True)
class Setting:
    """What is chosen for."""

    batch: int
    device: torch.device
    dtype: torch.dtype
    portable: bool

    def choices(self, layers: Mapping[str, str], memory_format: str, groups: int | None = None) -> Choices:
        """These layers' forms as plain data."""
        name = next(name for name, dtype in DTYPES.items() if dtype == self.dtype)  # `optimise` knows that it is there
        return {
            "format": FORMAT,
            "layers": dict(layers),
            "groups": groups,
            "memory_format": memory_format,
            "dtype": name,
            "portable": self.portable,
            "batch": self.batch,
            "threads": torch.get_num_threads(),
            "device": device_name(self.device),
        }

    def maps(self, shape: tuple[int, ...]) -> Tensor:
        """A batch of random maps of `shape`; torch's own generator stays where it was."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, *shape, generator=generator).to(self.device, self.dtype)

    @property
    def forms(self) -> tuple[str, ...]:
        """The forms of a single layer that may run here."""
        if self.portable:
            return "plain", "dense"
        kernel = self.device.type == "cpu" and self.dtype in native.FUNCTIONS and native.available()
        return (*LIBRARY, "native") if kernel else LIBRARY


def fastest(network: Network, setting: Setting, seconds: float) -> Choices:
    """The choices of the fastest network; whole networks are timed for about `seconds`."""
    with torch.no_grad():
        rivals = _rivals(network, setting)
        images = setting.maps(network.input_shape)
        modules = [prepared(assemble(network, choices), choices["memory_format"], setting) for choices in rivals]
        with torch.inference_mode():
            times = race([partial(module, images) for module in modules], seconds)
    return rivals[times.index(min(times))]


def race(runs: list[Callable[[], Any]], seconds: float) -> list[float]:
    """The shortest time of each of `runs`, called in turns for about `seconds`; the hopeless drop out."""
    for run in runs:
        run()
    best = [float("inf")] * len(runs)
    started, rounds = time.perf_counter(), 0
    while rounds < FEWEST or (rounds < MOST and time.perf_counter() - started < seconds):
        leader = min(best)
        for index, run in enumerate(runs):
            if best[index] <= HOPELESS * leader or rounds < FEWEST:  # one interruption makes nobody hopeless
                best[index] = min(best[index], _time(run))
        rounds += 1
    return best


def _rivals(network: Network, setting: Setting) -> list[Choices]:
    """The networks worth timing as a whole."""
    traced = traced_or_none(network)
    if traced is None or not traced.units:
        return [setting.choices({}, memory_format) for memory_format in MEMORY_FORMATS]
    alone, found = Alone(Maker(network), setting), []
    times = {form: {u.name: alone.times(u, form) for u in traced.units.values()} for form in MEMORY_FORMATS}
    for memory_format, own in times.items():
        found += [setting.choices(layers, memory_format) for layers in _of_library(own)]
    # what remains for the library beside the kernel is little: one layout will do
    layout = min(times, key=lambda form: sum(seconds["plain"] for seconds in times[form].values()))
    if any("native" in seconds for seconds in times[layout].values()):
        found += [setting.choices(layers, layout) for layers in _of_kernel(times[layout])]
    found += _interleaved(network, traced, alone)
    return [choices for index, choices in enumerate(found) if choices not in found[:index]]


Times = Mapping[str, Mapping[str, float]]  # of each layer in each of its forms


def _of_library(times: Times) -> list[dict[str, str]]:
    """Every layer plain; every one dense; each as it is fastest alone."""
    whole = {name: "dense" if "dense" in own else "plain" for name, own in times.items()}
    return [dict.fromkeys(times, "plain"), whole, {name: _least(own, LIBRARY) for name, own in times.items()}]


def _of_kernel(times: Times) -> list[dict[str, str]]:
    """Every layer native that can be; those alone that are faster so."""
    every = {name: "native" if "native" in own else _least(own, LIBRARY) for name, own in times.items()}
    return [every, {name: _least(own, (*LIBRARY, "native")) for name, own in times.items()}]


def _least(times: Mapping[str, float], among: tuple[str, ...]) -> str:
    return min((form for form in among if form in times), key=times.__getitem__)


def _interleaved(network: Network, traced: Traced, alone: Alone) -> list[Choices]:
    """The network in the two best numbers of groups, each layer only where that is faster; none where an operator
    needs its channels in their own order."""
    tried = []
    for groups in divisors(traced.units.values()):
        layers, total = {}, 0.0
        for name, unit in traced.units.items():
            spent = alone.times(unit, "channels_last")["plain"]
            split = alone.interleaved(unit, groups)
            layers[name] = "plain" if split is None or split > spent else "interleaved"
            total += spent if split is None else min(spent, split)
        if "interleaved" in layers.values():
            tried.append((total, alone.setting.choices(layers, "channels_last", groups)))
    best = [choices for _, choices in sorted(tried, key=lambda pair: pair[0])[:2]]
    try:
        for choices in best:
            assemble(network, choices)
    except UserError:
        return []
    return best


class Alone:
    """The seconds of single layers on random maps; layers of one size and kind are timed once."""

    def __init__(self, maker: Maker, setting: Setting) -> None:
        self.maker, self.setting = maker, setting
        self.known: dict[tuple[Any, ...], float | None] = {}

    def times(self, unit: Unit, memory_format: str) -> dict[str, float]:
        """Of each form that `unit` has."""
        found = {form: self._seconds(unit, form, memory_format) for form in self.setting.forms}
        return {form: seconds for form, seconds in found.items() if seconds is not None}

    def interleaved(self, unit: Unit, groups: int) -> float | None:
        """In `groups` groups; None where the layer does not split so."""
        return self._seconds(unit, "interleaved", "channels_last", groups)

    def _seconds(self, unit: Unit, form: str, memory_format: str, groups: int = 1) -> float | None:
        layout = "" if form == "native" else memory_format
        key = (type(unit.layer), repr(unit.layer), unit.input_shape, round(density(unit), 3), form, layout, groups)
        if key not in self.known:
            module = self.maker.make(unit, form)
            if form == "interleaved" and module is not None:
                module = Interleaved(module, groups) if splits(module, groups) else None  # type: ignore[arg-type]
            self.known[key] = None if module is None else self._measured(unit, module, form, memory_format)
        return self.known[key]

    def _measured(self, unit: Unit, module: nn.Module, form: str, memory_format: str) -> float:
        module = prepared(module, memory_format, self.setting)
        x = self.setting.maps(unit.input_shape[1:])
        if form == "native":
            x = to_blocks(x)
        elif x.dim() == 4:
            x = x.contiguous(memory_format=MEMORY_FORMATS[memory_format])
        module(x)
        best, started = float("inf"), time.perf_counter()
        while time.perf_counter() - started < ENOUGH or best == float("inf"):
            best = min(best, _time(partial(module, x)))
        return best


def traced_or_none(network: Network) -> Traced | None:
    """None where torch.fx cannot follow the network's forward, which the log then says."""
    try:
        return Traced(network)
    except (TraceError, TypeError, RuntimeError) as error:  # what it raises for branches, loops and lengths of tensors
        log.info("execution: the layers stay plain, torch.fx cannot follow the network: %s", str(error).split("\n")[0])
        return None


def prepared(module: nn.Module, memory_format: str, setting: Setting) -> nn.Module:
    """`module` on its device, in its dtype and layout."""
    layout = MEMORY_FORMATS[memory_format]
    return module.to(setting.device, setting.dtype).to(memory_format=layout).eval()


def _time(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
