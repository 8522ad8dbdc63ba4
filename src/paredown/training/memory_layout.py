"""The resolution of `channels_last=auto`: the memory layout in which a training step takes less time here, once."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial

import torch

from paredown.core.recipe import Precision
from paredown.cost.latency import use_threads
from paredown.store.states import Store
from paredown.training import decisions
from paredown.training.decisions import Auto, Decision
from paredown.training.timed_step import Step, in_turns, machine_facts, recalled, training_step

LAYOUT = Auto("channels_last", {True: "channels-last", False: "NCHW"})


def decide_layout(
    step: Step, precision: Precision, device: torch.device, threads: int | None, store: Store
) -> Decision[bool]:
    """Decide as `decisions.decide`, by what `step` in `precision` takes on `device` with `threads` (None: as torch)."""

    def by_times() -> tuple[bool, str]:
        with use_threads(threads):
            place = machine_facts(device)
            facts = place | asdict(step) | {"precision": precision}
            run, names = partial(measure, step, precision, device), LAYOUT.names.values()
            return LAYOUT.by_times(step, place, lambda: recalled("layout", facts, names, run).values())

    return decisions.decide(LAYOUT, step.record(f"layout-{precision}"), by_times, store)


def measure(step: Step, precision: Precision, device: torch.device) -> dict[str, float]:
    """Return the median seconds of a training step in each layout, timed in turns. Torch's random generators stay where
    they were."""
    with torch.random.fork_rng(), ExitStack() as both:
        runs = {
            name: partial(both.enter_context(training_step(replace(step, channels_last=last), device)), precision)
            for last, name in LAYOUT.names.items()
        }
        return in_turns(runs, device)
