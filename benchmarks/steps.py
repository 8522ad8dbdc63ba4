"""What benchmarks of a training step share: their options, and one step on random images, timed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from paredown.core.recipe import Recipe
from paredown.training.module import make_optimizer

Penalty = Callable[[nn.Module], torch.Tensor]


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line with `batch`, `rounds`, `threads` and `device` and the script's; set threads and seed."""
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    return options


def stepper(
    module: nn.Module, options: argparse.Namespace, penalty: Penalty | None = None, half: bool = False
) -> Callable[[], float]:
    """Make a function that makes one training step of `module` (channels-last, batch norm in training mode; `half`: in
    bf16) and returns its seconds."""
    module = module.to(options.device, memory_format=torch.channels_last).train()
    optimizer = make_optimizer(module, Recipe(epochs=1, learning_rate=0.001))
    images = torch.randn(options.batch, 3, 32, 32, device=options.device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch,), device=options.device)

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
            loss = cross_entropy(module(images), labels)
        if penalty:
            loss = loss + penalty(module)
        loss.backward()
        optimizer.step()
        if images.device.type != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return step
