"""Search for the fastest backends on this machine: single layers first, then whole networks against each other."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from paredown.core.errors import UserError, reason
from paredown.core.network import Network
from paredown.core.progress import each, working_on
from paredown.cost.latency import device_name, timed
from paredown.layers.sparse import CPU_PRODUCTS
from paredown.runtime import cpu_kernel, gathered
from paredown.runtime.assembly import LayerBuilder, assemble
from paredown.runtime.backends import density
from paredown.runtime.blocked_layers import to_blocks
from paredown.runtime.choices import DTYPES, FORMAT, MEMORY_FORMATS, Choices
from paredown.runtime.equivalence import reproduces
from paredown.runtime.interleaved import Interleaved, divisors, splits
from paredown.runtime.pixel_layers import FEW
from paredown.runtime.units import Traced, Unit

log = logging.getLogger("paredown")
LIBRARY = ("plain", "dense", "sparse")
KERNELS = {"native": None, "pixels": "contiguous", "triton": None}  # with the memory format that each needs
DROP_OUT = 1.25  # a network slower than the fastest one by this factor is not timed again
MIN_ROUNDS, MAX_ROUNDS = 3, 200
PROVED = 3  # images on which a whole network is proved on a GPU
LAYER_SECONDS = 0.03  # for one layer with one backend
INTERLEAVED_RIVALS = 2  # numbers of groups that are timed as whole networks
Times = Mapping[str, Mapping[str, float]]  # seconds by layer and backend


class Engine(Protocol):
    """Another library than torch, which runs what is deployed."""

    def ready(self, module: nn.Module, images: Tensor) -> Callable[[Tensor], object]:
        """Return the function by which the library runs `module` on batches like `images`."""
        ...


@dataclass(frozen=True)
class Setting:
    """Batch size, device, dtype and portability that the backends are chosen for; `engine` None: torch runs them."""

    batch: int
    device: torch.device
    dtype: torch.dtype
    portable: bool
    engine: Engine | None = None

    def choices(self, layers: Mapping[str, str], memory_format: str, groups: int | None = None) -> Choices:
        """Return the backends of `layers` under this setting as plain data."""
        name = next(name for name, dtype in DTYPES.items() if dtype == self.dtype)  # `optimise` has checked the dtype
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

    def random_batch(self, shape: tuple[int, ...]) -> Tensor:
        """Draw a batch of normal inputs of `shape` without advancing torch's global generator."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.batch, *shape, generator=generator).to(self.device, self.dtype)

    def prepare(self, module: nn.Module, memory_format: str) -> nn.Module:
        """Move `module` to the device, dtype and memory format, in eval mode."""
        return module.to(self.device, self.dtype).to(memory_format=MEMORY_FORMATS[memory_format]).eval()

    def run(self, module: nn.Module, inputs: Tensor) -> Callable[[], object]:
        """Return the call that is timed: `module` on `inputs`, by whatever runs it."""
        return partial(self.engine.ready(module, inputs) if self.engine else module, inputs)

    @property
    def layouts(self) -> tuple[str, ...]:
        """The memory formats to try: another library has its own."""
        return ("contiguous",) if self.engine else tuple(MEMORY_FORMATS)

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends for single layers that are available under this setting."""
        if self.portable:
            return "plain", "dense"
        has_product = self.device.type != "cpu" or self.dtype in CPU_PRODUCTS
        library = tuple(backend for backend in LIBRARY if backend != "sparse" or has_product)
        if self.device.type == "cpu" and self.dtype in cpu_kernel.FUNCTIONS and cpu_kernel.available():
            few = ("pixels",) if self.batch <= FEW else ()
            return *library, "native", *few
        if self.device.type == "cuda" and self.dtype in gathered.DTYPES and gathered.available():
            return *library, "triton"
        return library


def find_fastest(network: Network, setting: Setting, seconds: float) -> Choices:
    """Return the choices of the fastest network; whole networks are timed for about `seconds`."""
    with torch.no_grad():
        rivals = _rivals(network, setting)
        images = setting.random_batch(network.input_shape)
        modules = [setting.prepare(assemble(network, choices), choices["memory_format"]) for choices in rivals]
        # what has run on no other machine is proved on the device itself
        fit = [
            index
            for index, (choices, module) in enumerate(zip(rivals, modules, strict=True))
            if "triton" not in choices["layers"].values() or reproduces(module, network.module, images[:PROVED])
        ]
        with torch.inference_mode():
            times = race([setting.run(modules[index], images) for index in fit], setting.device, seconds)
    return rivals[fit[times.index(min(times))]]


def race(runs: list[Callable[[], Any]], device: torch.device, seconds: float) -> list[float]:
    """Call `runs` in turns for about `seconds` after a warm-up and return the shortest time of each.

    After MIN_ROUNDS, so that a single interruption excludes nobody, those slower than the fastest by the factor
    DROP_OUT are no longer called.
    """
    for run in runs:
        run()
    best = [float("inf")] * len(runs)
    started, rounds = time.perf_counter(), 0
    with working_on("the fastest form", seconds, "s") as work:
        while rounds < MIN_ROUNDS or (rounds < MAX_ROUNDS and work.done < seconds):
            leader = min(best)
            for index, run in enumerate(runs):
                if best[index] <= DROP_OUT * leader or rounds < MIN_ROUNDS:
                    best[index] = min(best[index], timed(run, device))
            rounds += 1
            work.done = time.perf_counter() - started
    return best


def _rivals(network: Network, setting: Setting) -> list[Choices]:
    """Return the choices to time as whole networks, without duplicates."""
    traced = traced_or_none(network)
    if traced is None or not traced.units:
        return [setting.choices({}, memory_format) for memory_format in setting.layouts]
    timer, found = LayerTimer(LayerBuilder(network), setting), []
    units = [*traced.units.values()]
    by_layout = {
        layout: {unit.name: timer.times(unit, layout) for unit in each(units, f"layers, {layout}")}
        for layout in setting.layouts
    }
    for layout, times in by_layout.items():
        found += [setting.choices(layers, layout) for layers in _with_library(times)]
    # little is left to the library beside the kernel: the layout in which plain layers are faster suffices
    layout = min(by_layout, key=lambda layout: sum(times["plain"] for times in by_layout[layout].values()))
    for kernel, needed in KERNELS.items():
        times = by_layout[needed or layout]
        if any(kernel in of_layer for of_layer in times.values()):
            found += [setting.choices(layers, needed or layout) for layers in _with_kernel(times, kernel)]
    found += _interleaved(network, traced, timer)
    return [choices for index, choices in enumerate(found) if choices not in found[:index]]


def _with_library(times: Times) -> list[dict[str, str]]:
    """Return all layers plain, all low-rank layers dense, and each layer with its fastest library backend."""
    dense = {name: "dense" if "dense" in of_layer else "plain" for name, of_layer in times.items()}
    fastest = {name: _fastest(of_layer, LIBRARY) for name, of_layer in times.items()}
    return [dict.fromkeys(times, "plain"), dense, fastest]


def _with_kernel(times: Times, kernel: str) -> list[dict[str, str]]:
    """Return the kernel for every layer that it can run, and for those only that it runs faster than the library."""
    every = {name: kernel if kernel in of_layer else _fastest(of_layer, LIBRARY) for name, of_layer in times.items()}
    return [every, {name: _fastest(of_layer, (*LIBRARY, kernel)) for name, of_layer in times.items()}]


def _fastest(times: Mapping[str, float], among: tuple[str, ...]) -> str:
    return min((backend for backend in among if backend in times), key=times.__getitem__)


def _interleaved(network: Network, traced: Traced, timer: LayerTimer) -> list[Choices]:
    """Return the network in the best numbers of groups, each layer interleaved only where that is faster; nothing if an
    operator of the network depends on the order of its channels."""
    tried, layout = [], timer.setting.layouts[0]
    for groups in divisors(traced.units.values()):
        layers, total = {}, 0.0
        for name, unit in traced.units.items():
            plain = timer.times(unit, layout)["plain"]
            split = timer.interleaved(unit, groups)
            layers[name] = "plain" if split is None or split > plain else "interleaved"
            total += plain if split is None else min(plain, split)
        if "interleaved" in layers.values():
            tried.append((total, timer.setting.choices(layers, layout, groups)))
    best = [choices for _, choices in sorted(tried, key=lambda pair: pair[0])[:INTERLEAVED_RIVALS]]
    try:
        for choices in best:
            assemble(network, choices)
    except UserError:
        return []
    return best


class LayerTimer:
    """Times single layers on random inputs; layers of one type, geometry and density are timed once."""

    def __init__(self, builder: LayerBuilder, setting: Setting) -> None:
        self.builder, self.setting = builder, setting
        self.known: dict[tuple[Any, ...], float | None] = {}

    def times(self, unit: Unit, memory_format: str) -> dict[str, float]:
        """Return the seconds of `unit` with each backend that can run it."""
        found = {backend: self._seconds(unit, backend, memory_format) for backend in self.setting.backends}
        return {backend: seconds for backend, seconds in found.items() if seconds is not None}

    def interleaved(self, unit: Unit, groups: int) -> float | None:
        """Return the seconds of `unit` interleaved in `groups` groups, None if it does not split that way."""
        return self._seconds(unit, "interleaved", self.setting.layouts[0], groups)

    def _seconds(self, unit: Unit, backend: str, memory_format: str, groups: int = 1) -> float | None:
        layout = "" if backend == "native" else memory_format
        layer = (type(unit.layer), repr(unit.layer), unit.input_shape, round(density(unit), 3))
        key = (*layer, backend, layout, groups)
        if key not in self.known:
            module = self.builder.build(unit, backend)
            if backend == "interleaved" and module is not None:
                module = Interleaved(module, groups) if splits(module, groups) else None  # type: ignore[arg-type]
            self.known[key] = None if module is None else self._measured(unit, module, backend, memory_format)
        return self.known[key]

    def _measured(self, unit: Unit, module: nn.Module, backend: str, memory_format: str) -> float | None:
        module = self.setting.prepare(module, memory_format)
        x = self.setting.random_batch(unit.input_shape[1:])
        if backend == "native":
            x = to_blocks(x)
        elif x.dim() == 4:
            x = x.contiguous(memory_format=MEMORY_FORMATS[memory_format])
        if backend == "triton":
            exact = self.builder.build(unit, "plain")
            if exact is None or not reproduces(module, exact, x):
                return None
        run = self.setting.run(module, x)
        run()
        best, started = float("inf"), time.perf_counter()
        while time.perf_counter() - started < LAYER_SECONDS or best == float("inf"):
            best = min(best, timed(run, self.setting.device))
        return best


def traced_or_none(network: Network) -> Traced | None:
    """Trace `network`; return None, and log the reason, where torch.fx cannot follow its forward pass."""
    try:
        return Traced(network)
    except (UserError, RuntimeError) as error:
        log.info("deploy=auto keeps the plain layers: %s", reason(error))
        return None
