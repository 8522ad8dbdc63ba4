"""Time per layer of two networks, measured with hooks while they run in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from paredown.core.modes import hooked
from paredown.core.network import Network
from paredown.cost import count
from paredown.cost.latency import MIN_TURNS, synchronise
from paredown.runtime.rivals import Candidate


def by_layer(dense: Network, pair: Mapping[str, Candidate], seconds: float) -> list[dict[str, Any]]:
    """Measure the milliseconds in each conv, linear or compressed layer while the networks of `pair` ('dense' and
    'deployed') run in turns for about `seconds`.

    Return rows with `layer`, `dense_ms` and `ms`, None where a variant has no module for the layer. Operations between
    layers are in none of them.
    """
    names = [layer.name for layer in count(dense.module, dense.input_shape).layers]
    clocks = {name: _Clock(candidate, names) for name, candidate in pair.items()}
    with torch.inference_mode():
        started, turns = time.perf_counter(), 0
        while turns < MIN_TURNS or time.perf_counter() - started < seconds:
            for clock in clocks.values():
                clock.run()
            turns += 1
    before, after = (clocks[name].medians() for name in ("dense", "deployed"))
    return [{"layer": name, "dense_ms": before.get(name), "ms": after.get(name)} for name in names]


class _Clock:
    """Times the modules `names` of a candidate; the first run is a warm-up and not counted."""

    def __init__(self, candidate: Candidate, names: Sequence[str]) -> None:
        self.candidate = candidate
        self.seconds: dict[str, list[float]] = {name: [] for name in names}
        modules = dict(candidate.module.named_modules())
        self.watched = {name: modules[name] for name in names if name in modules}

    def run(self) -> None:
        """Run the network once and record the time of each layer."""
        with hooked(handle for name, module in self.watched.items() for handle in self._watch(name, module)):
            self.candidate.module(self.candidate.images)

    def medians(self) -> dict[str, float]:
        """Return the median milliseconds by layer."""
        return {name: 1e3 * statistics.median(found[1:]) for name, found in self.seconds.items() if found[1:]}

    def _watch(self, name: str, module: nn.Module) -> list[Any]:
        device, began = self.candidate.images.device, [0.0]

        def before(*_: Any) -> None:
            synchronise(device)
            began[0] = time.perf_counter()

        def after(*_: Any) -> None:
            synchronise(device)
            self.seconds[name].append(time.perf_counter() - began[0])

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
