"""Where the time goes: each layer of two networks, timed from inside while they run in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from paredown.cost import count
from paredown.cost.latency import FEWEST, wait
from paredown.plan import Network


@dataclass(frozen=True)
class Candidate:
    """A network ready to be timed: 'dense' or 'deployed', in one precision and one form, with its images."""

    network: str
    precision: str
    form: str
    module: nn.Module
    images: Tensor


def by_layer(dense: Network, pair: Mapping[str, Candidate], seconds: float) -> list[dict[str, Any]]:
    """Milliseconds in each conv, linear or rewritten layer while the whole network runs, in turns; None for one that
    the form has no module of its own for. What lies between layers is not in them."""
    names = [layer.name for layer in count(dense.module, dense.input_shape).layers]
    clocks = {name: _Clock(candidate, names) for name, candidate in pair.items()}
    with torch.inference_mode():
        started, turns = time.perf_counter(), 0
        while turns < FEWEST or time.perf_counter() - started < seconds:
            for clock in clocks.values():
                clock.run()
            turns += 1
    before, after = (clocks[name].medians() for name in ("dense", "deployed"))
    return [{"layer": name, "dense_ms": before.get(name), "ms": after.get(name)} for name in names]


class _Clock:
    """Times the modules `names` of a candidate; its first run warms up and does not count."""

    def __init__(self, candidate: Candidate, names: Sequence[str]) -> None:
        self.candidate = candidate
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        modules = dict(candidate.module.named_modules())
        self.watched = {name: modules[name] for name in names if name in modules}

    def run(self) -> None:
        """Run the whole network once and keep what each layer took."""
        handles = [handle for name, module in self.watched.items() for handle in self._watch(name, module)]
        try:
            self.candidate.module(self.candidate.images)
        finally:
            for handle in handles:
                handle.remove()

    def medians(self) -> dict[str, float]:
        """Milliseconds by layer."""
        return {name: 1e3 * statistics.median(found[1:]) for name, found in self.seconds.items() if found[1:]}

    def _watch(self, name: str, module: nn.Module) -> list[Any]:
        device, began = self.candidate.images.device, [0.0]

        def before(*_: Any) -> None:
            wait(device)
            began[0] = time.perf_counter()

        def after(*_: Any) -> None:
            wait(device)
            self.seconds[name].append(time.perf_counter() - began[0])

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
