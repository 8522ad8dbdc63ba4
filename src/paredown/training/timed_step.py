"""The training step that is timed where a setting of the recipe is auto, and its times, which a cache keeps."""

from __future__ import annotations

import json
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch.nn import functional

from paredown.core import blueprint
from paredown.core.files import user_cache, write_text
from paredown.core.keys import digest, root_key
from paredown.core.recipe import Precision
from paredown.core.trust import TARGET
from paredown.cost.latency import device_name, timed
from paredown.layers.strided import subsampled
from paredown.training.bf16 import bf16_products

REPEATS, SECONDS = 3, 5.0  # timed steps in each form, fewer once so much time has passed
PIXELS = 2**20  # of a step's images: as many as 1,024 of 32 x 32 and 20 of 224 x 224
TIMED: dict[str, Any] = {}  # in this process, by step and machine
Name = TypeVar("Name", bound=str)
log = logging.getLogger("paredown")


@dataclass(frozen=True)
class Step:
    """The training step that is timed: the dense network of `architecture` on `images` of `shape`."""

    architecture: Mapping[str, Any]
    shape: tuple[int, ...]
    images: int
    channels_last: bool

    @classmethod
    def of(cls, architecture: Mapping[str, Any], shape: tuple[int, ...], batch: int, channels_last: bool) -> Step:
        """Return a step on `batch` images, or on as many as keep it short; batch norm needs two."""
        images = max(2, min(batch, PIXELS // math.prod(shape[1:])))
        return cls(dict(architecture), tuple(shape), images, channels_last)

    def record(self, what: str) -> str:
        """Return the name under which an output keeps a decision on `what`, whatever machine it was made on."""
        arguments = {name: value for name, value in self.architecture.items() if name != TARGET}
        network = root_key(blueprint.builder(self.architecture, "model"), arguments, self.shape, None)
        return f"{what}-{digest([network, self.images])}.json"

    def __str__(self) -> str:
        name = str(self.architecture["_target_"]).rpartition(".")[2]
        return f"a training step of {name} on {self.images} images of {'x'.join(map(str, self.shape))}"


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Describe what of the machine the times depend on: machines of one processor may share a cache and differ in what
    a hypervisor exposes."""
    features = sorted(name for name, there in torch.cpu.get_capabilities().items() if there is True)
    found = {"device": device_name(device), "threads": torch.get_num_threads(), "features": features}
    return found | {"torch": str(torch.__version__)}


def recalled(
    what: str, facts: Mapping[str, Any], names: Iterable[Name], measured: Callable[[], dict[Name, float]]
) -> dict[Name, float]:
    """Return the seconds of `what` by `names` under these `facts`: those that this process knows, those in the user's
    cache folder, or new ones that are `measured`."""
    identity = json.dumps(facts, sort_keys=True)
    path = user_cache() / f"{what}-{digest(identity)}.json"
    known: dict[Name, float] | None = TIMED.get(f"{what}{identity}") or _kept(path, identity, names)
    times = TIMED[f"{what}{identity}"] = known or measured()
    if known:
        return known
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"of": json.loads(identity), "seconds": times}, indent=1))
    except OSError as error:
        log.info("%s is not kept (%s): the next process times it again", path, error.strerror)
    return times


def _kept(path: Path, identity: str, names: Iterable[Name]) -> dict[Name, float] | None:
    try:
        data = json.loads(path.read_text())
        times = {one: float(data["seconds"][one]) for one in names}
        if json.dumps(data["of"], sort_keys=True) == identity and all(0 < t < math.inf for t in times.values()):
            return times
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    log.warning("%s is damaged or of something else, and ignored", path)
    return None


@contextmanager
def training_step(step: Step, device: torch.device) -> Iterator[Callable[[Precision], None]]:
    """Yield a function that makes one training step in the precision it is given."""
    module = blueprint.create(dict(step.architecture), cast(Any, step.shape)).module.to(device).train()
    images = torch.randn(step.images, *step.shape, device=device)
    labels = torch.zeros(step.images, dtype=torch.long, device=device)
    if step.channels_last:
        module, images = (cast(Any, x).to(memory_format=torch.channels_last) for x in (module, images))
    optimizer = torch.optim.SGD(module.parameters(), 1e-3, momentum=0.9, foreach=True)

    def run(precision: Precision) -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = functional.cross_entropy(module(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with subsampled(module):
        yield run


def in_turns(runs: Mapping[Name, Callable[[], None]], device: torch.device) -> dict[Name, float]:
    """Call `runs` in turns, REPEATS times after a warm-up or until SECONDS have passed, and return their medians."""
    with bf16_products(device):
        for run in runs.values():
            run()
        seconds: dict[Name, list[float]] = {one: [] for one in runs}
        started = time.perf_counter()
        for _ in range(REPEATS):
            for one, run in runs.items():
                seconds[one].append(timed(run, device))
            if time.perf_counter() - started > SECONDS:
                break
    return {one: statistics.median(times) for one, times in seconds.items()}
