"""The resolution of `precision=auto`: what a training step of the network takes on this machine decides, once."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial

import torch

from paredown.core.recipe import Precision
from paredown.cost.latency import device_name, use_threads
from paredown.store.states import Store
from paredown.training import decisions
from paredown.training.decisions import Auto, Decision
from paredown.training.machine import has_bf16_units
from paredown.training.timed_step import Step, in_turns, machine_facts, recalled, training_step

PRECISION: Auto[Precision] = Auto("precision", {"32": "fp32", "bf16": "bf16"})  # bf16 rounds


def decide(step: Step, device: torch.device, threads: int | None, store: Store) -> Decision[Precision]:
    """Decide as `decisions.decide`, by what `step` takes on `device` with `threads` (None: as torch). Nothing is timed
    where bf16 cannot win."""

    def by_times() -> tuple[Precision, str]:
        if not has_bf16_units(device):
            return "32", f"fp32: {device_name(device)} has no bf16 instructions"
        with use_threads(threads):
            place = machine_facts(device)
            facts = place | asdict(step)
            run = partial(measure, step, device)
            return PRECISION.by_times(step, place, lambda: recalled("precision", facts, PRECISION.names, run).values())

    return decisions.decide(PRECISION, step.record("precision"), by_times, store)


def measure(step: Step, device: torch.device) -> dict[Precision, float]:
    """Return the median seconds of forward pass, backward pass and update in each precision, timed in turns. Torch's
    random generators stay where they were."""
    with torch.random.fork_rng(), training_step(step, device) as run:
        return in_turns({one: partial(run, one) for one in PRECISION.names}, device)
