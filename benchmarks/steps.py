"""What benchmarks of a training step share: their options, and one step on random images, timed."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from paredown.core.recipe import Recipe
from paredown.training.bf16 import bf16_products
from paredown.training.module import make_optimizer

Penalty = Callable[[nn.Module], torch.Tensor]


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line with `batch`, `rounds`, `threads` and `device` and the script's; set threads and seed."""
    parser.add_argument("--batch", type=positive, default=128)
    parser.add_argument("--rounds", type=positive, default=9)
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options


def positive(text: str) -> int:
    """Read a number of at least 1, as a type of argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def stepper(
    module: nn.Module,
    options: argparse.Namespace,
    penalty: Penalty | None = None,
    half: bool = False,
    torchs: bool = False,
) -> Callable[[], float]:
    """Make a function that makes one training step of `module` (channels-last, batch norm in training mode; `half`: in
    bf16 as a fit has it, with `torchs` as torch does) and returns its seconds."""
    module = module.to(options.device, memory_format=torch.channels_last).train()
    optimizer = make_optimizer(module, Recipe(epochs=1, learning_rate=0.001))
    images = torch.randn(options.batch, 3, 32, 32, device=options.device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch,), device=options.device)

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad()
        products = bf16_products(images.device) if half and not torchs else nullcontext()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half), products:
            loss = cross_entropy(module(images), labels)
        if penalty:
            loss = loss + penalty(module)
        loss.backward()
        optimizer.step()
        if images.device.type != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return step


def in_turns(steps: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call each of `steps` once, then in turns; return the seconds of each in every round."""
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            seconds[name].append(step())
    return seconds


def compared(seconds: Mapping[str, list[float]], name: str, rival: str) -> str:
    """Return the median of the ratios of `name` over `rival`, round by round, with their range."""
    ratios = [own / other for own, other in zip(seconds[name], seconds[rival], strict=True)]
    low, high = min(ratios), max(ratios)
    return f"{name} / {rival}: {statistics.median(ratios):.3f}x ({low:.3f} to {high:.3f}, {len(ratios)} rounds)"
