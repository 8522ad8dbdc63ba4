"""How long the deployed network really takes, beside the dense one, measured in turns."""

from __future__ import annotations

import copy
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from paredown.errors import UserError

WARM_UP, FEWEST = 3, 5


@dataclass(frozen=True)
class Latency:
    """Medians in milliseconds a batch, their ratio, and the middle half of the speed-ups of the single turns."""

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
        """Under their names in docs/architecture.md; `device` is no number and goes into the tags."""
        times = {"ms": self.ms, "dense_ms": self.dense_ms, "speed_up": self.speed_up}
        interval = {"speed_up_low": self.speed_up_low, "speed_up_high": self.speed_up_high}
        setting = {"batch": self.batch, "threads": self.threads, "turns": self.turns}
        return {f"latency/{name}": float(value) for name, value in (times | interval | setting).items()}


def check(batch: int = 32, threads: int | None = None, seconds: float = 4.0) -> None:
    """Raises UserError for settings that `measure` cannot use; to be asked before anything is trained."""
    if batch < 1:
        raise UserError(f"latency.batch={batch} is below 1: it is the number of images timed at once")
    if threads is not None and threads < 1:
        raise UserError(f"latency.threads={threads} is below 1: take a number of threads, or null for torch's own")
    if not seconds >= 0:
        raise UserError(f"latency.seconds={seconds} is below 0: it is the time spent on measuring")


def measure(
    deployed: nn.Module,
    dense: nn.Module,
    input_shape: tuple[int, ...],
    *,
    device: torch.device,
    batch: int = 32,
    threads: int | None = None,
    seconds: float = 4.0,
    laid_out: bool = False,
) -> Latency:
    """Time `deployed` and `dense` in turns (A B A B ...) on the same random batch for about `seconds`, in eval and
    inference mode, fp32, channels-last. `threads` None keeps torch's number, which is as before afterwards.
    `laid_out`: `deployed` is on its device, in its dtype and its own memory format."""
    check(batch, threads, seconds)
    images = torch.randn(batch, *input_shape, device=device).contiguous(memory_format=torch.channels_last)
    pair = [deployed if laid_out else _ready(deployed, device), _ready(dense, device)]
    with use_threads(threads):
        turns = in_turns([(network, images) for network in pair], seconds)
        used = torch.get_num_threads()
    ratios = [other / own for own, other in turns]
    low, _, high = statistics.quantiles(ratios, n=4)
    own_ms, dense_ms = (1e3 * statistics.median(times) for times in zip(*turns, strict=True))
    return Latency(own_ms, dense_ms, dense_ms / own_ms, low, high, batch, used, device_name(device), len(turns))


def in_turns(pairs: Sequence[tuple[Callable[[Tensor], object], Tensor]], seconds: float) -> list[tuple[float, ...]]:
    """What each of `pairs`, a network and its images, takes in seconds, one after the other (A B A B ...) for about
    `seconds` after a warm-up, in inference mode; a row for every turn."""
    turns: list[tuple[float, ...]] = []
    with torch.inference_mode():
        for network, images in [*pairs] * WARM_UP:
            network(images)
        started = time.perf_counter()
        while len(turns) < FEWEST or time.perf_counter() - started < seconds:
            turns.append(tuple(_time(network, images) for network, images in pairs))
    return turns


def device_name(device: torch.device) -> str:
    """The model of the processor or GPU behind `device`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or not x86
        return platform.processor() or platform.machine()


def _ready(network: nn.Module, device: torch.device) -> nn.Module:
    ready = copy.deepcopy(network).to(device, torch.float32, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ready.eval()


def _time(network: Callable[[Tensor], object], images: Tensor) -> float:
    wait(images.device)
    started = time.perf_counter()
    network(images)
    wait(images.device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def use_threads(number: int | None) -> Iterator[None]:
    """torch's number of threads inside (None: as it is), and as before afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
