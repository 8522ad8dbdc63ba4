"""Latency of the deployed network, measured in turns with the dense one."""

from __future__ import annotations

import platform
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor

from paredown.core.constraints import Checked, NonNegative, Rule, Threads
from paredown.core.keys import identity
from paredown.core.memory import keep_freed
from paredown.core.progress import working_on

WARM_UP_TURNS, MIN_TURNS = 3, 5
Timed = tuple[Callable[[Tensor], object], Tensor]  # a network, and the batch it is timed on


@identity("latency", version=2)
@dataclass(frozen=True)
class LatencySettings(Checked):
    """Settings of a latency measurement: `batch` images at once on `threads` (None: as torch), about `seconds`."""

    section: ClassVar[str] = "latency"

    batch: Annotated[int, Ge(1), Rule("at least 1: it is the number of images timed at once")] = 32
    threads: Threads | None = None
    seconds: NonNegative = 4.0


@dataclass(frozen=True)
class Latency:
    """Medians in milliseconds per batch, and of single turns the median of the speed-ups (dense time / time) and their
    quartiles."""

    ms: float
    dense_ms: float
    speed_up: float
    speed_up_low: float
    speed_up_high: float
    batch: int
    threads: int
    device: str
    turns: int

    def metrics(self) -> dict[str, float]:
        """Return the metrics `latency/...` of docs/architecture.md; `device` is a string and becomes a tag."""
        times = {"ms": self.ms, "dense_ms": self.dense_ms, "speed_up": self.speed_up}
        interval = {"speed_up_low": self.speed_up_low, "speed_up_high": self.speed_up_high}
        setting = {"batch": self.batch, "threads": self.threads, "turns": self.turns}
        return {f"latency/{name}": float(value) for name, value in (times | interval | setting).items()}


def measure(deployed: Timed, dense: Timed, settings: LatencySettings) -> Latency:
    """Time the networks `deployed` and `dense` on their batches in turns, in inference mode, as they are.

    The number of threads is restored in any case.
    """
    device = deployed[1].device
    with use_threads(settings.threads):
        turns = in_turns([deployed, dense], settings.seconds)
        used = torch.get_num_threads()
    ms, dense_ms = (1e3 * median for median in medians(turns))
    low, middle, high = statistics.quantiles([dense_time / time for time, dense_time in turns], n=4)
    return Latency(ms, dense_ms, middle, low, high, len(deployed[1]), used, device_name(device), len(turns))


def in_turns(pairs: Sequence[Timed], seconds: float) -> list[tuple[float, ...]]:
    """Time networks on their inputs in turns (A B A B ...) for about `seconds` after a warm-up, in inference mode.

    Return the seconds of each of `pairs` (network, input), one row per turn, at least MIN_TURNS of them.
    """
    turns: list[tuple[float, ...]] = []
    with torch.inference_mode():
        for network, inputs in [*pairs] * WARM_UP_TURNS:
            network(inputs)
        started = time.perf_counter()
        with working_on("latency", seconds, "s") as work:
            while len(turns) < MIN_TURNS or work.done < seconds:
                turns.append(tuple(timed(partial(network, inputs), inputs.device) for network, inputs in pairs))
                work.done = time.perf_counter() - started
    return turns


def medians(turns: Sequence[Sequence[float]]) -> list[float]:
    """Return the median of each column of `turns`."""
    return [statistics.median(times) for times in zip(*turns, strict=True)]


def timed(run: Callable[[], object], device: torch.device) -> float:
    """Call `run`, which works on `device`, and return the seconds it took. Memory that it frees stays with the process,
    as while a network trains: times of one machine are of one kind, whether it trained before or not."""
    keep_freed()
    synchronise(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has finished the work queued on it; return at once for a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    """Return the model name of the processor or GPU `device`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


@contextmanager
def use_threads(number: int | None) -> Iterator[None]:
    """Set torch's number of threads inside the context (None: unchanged) and restore it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cpu_name() -> str:
    # as the system writes it: torch.cpu.get_capabilities() shortens the name, under which results are recorded
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        text = ""
    return _model_name(text) or platform.processor() or platform.machine()


def _model_name(cpuinfo: str) -> str:
    """Return the first processor's name in the text of /proc/cpuinfo; empty where it has none, as on ARM. A name
    without a number, which hypervisors give to several generations, is followed by family, model and stepping."""
    lines = (line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines())
    found = {key.strip(): value.strip() for key, _, value in lines}
    name = found.get("model name", "")
    if not name or any(letter.isdigit() for letter in re.sub("@.*|version.*", "", name)):
        return name
    family, model, stepping = (found.get(key, "?") for key in ("cpu family", "model", "stepping"))
    return f"{name} (family {family}, model {model}, stepping {stepping})"
