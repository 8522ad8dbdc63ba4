"""Epochs of training with masks that move against the same epochs with masks that stay, at the published periods.

    python benchmarks/moving_masks.py --depth 20 --batch 32 --steps 100 --rounds 3

One epoch has `steps` training steps on random images: with 100 of them SET, DSR, RigL and gradual pruning move once, at
their shortest published period, and Deep-R after every step. Epochs are interleaved over the rounds. For each method:
the median of the ratios to the epochs without a hook, in brackets the lowest and highest, and the share of its epochs
that was spent inside the hook. Seconds are of the processor, so that other jobs on the machine count less.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from steps import parse
from torch.nn.functional import cross_entropy

from paredown.core import blueprint
from paredown.core.hooks import Context, FitState
from paredown.core.recipe import Recipe
from paredown.core.target import Goal, Target
from paredown.methods.sparse.moving import EVERY_100, scatter
from paredown.surgery import moves
from paredown.surgery.densities import start_counts
from paredown.surgery.sparsify import sizes
from paredown.training.hooks.moving_masks import MovingMask
from paredown.training.module import make_optimizer

SPARSITY = 0.9
EPOCHS = 1000  # of a schedule that does not end while it is timed


class Batches:
    """Stands for a data module of so many batches an epoch."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def train_loader(self, *_: Any, **__: Any) -> range:
        return range(self.steps)


def hooks(kept: int) -> dict[str, MovingMask]:
    return {
        "set": MovingMask(moves.SET(), EVERY_100),
        "dsr": MovingMask(moves.DSR(round(0.1 * kept)), EVERY_100),
        "rigl": MovingMask(moves.RigL(), EVERY_100),
        "gradual": MovingMask(moves.Gradual(Goal("sparsity", SPARSITY)), EVERY_100),
        "deep_r": MovingMask(moves.DeepR(), ((0.0, 1),)),
        "deep_r without decay": MovingMask(moves.DeepR(l1=0.0), ((0.0, 1),)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--width", type=float, default=1)
    parser.add_argument("--steps", type=int, default=100)
    options = parse(parser)
    dense = network(options)
    kept = sum(start_counts(dense, Target("sparsity", SPARSITY), "uniform").values())
    contenders: dict[str, MovingMask | None] = {"none": None, **hooks(kept)}
    epochs = {name: contender(options, name, hook) for name, hook in contenders.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in epochs}
    for _ in range(options.rounds):
        for name, epoch in epochs.items():
            found[name].append(epoch())
    plain = [seconds for seconds, _ in found["none"]]
    print(
        f"{kept} of {sum(sizes(dense).values())} weights, batch {options.batch}: {options.steps} steps without a hook"
    )
    print(f"take {statistics.median(plain):.2f} s of one core")
    for name in contenders:
        if name != "none":
            ratios = sorted(own / other for (own, _), other in zip(found[name], plain, strict=True))
            share = statistics.median(inside / whole for whole, inside in found[name])
            middle = f"{statistics.median(ratios):.3f}x ({ratios[0]:.3f} to {ratios[-1]:.3f})"
            print(f"{name}: {middle}, {share:.2%} of it inside the hook")


def network(options: argparse.Namespace) -> Any:
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet"}
    return blueprint.create({**architecture, "depth": options.depth, "width": options.width}, (3, 32, 32))


def contender(options: argparse.Namespace, name: str, hook: MovingMask | None) -> Callable[[], tuple[float, float]]:
    """Make a function that trains for an epoch and returns its seconds, and those inside of the hook."""
    made, device = network(options), torch.device(options.device)
    counts = sizes(made) if name == "gradual" else start_counts(made, Target("sparsity", SPARSITY), "uniform")
    context = Context(Batches(options.steps), device, 0)
    scatter(made, context, counts)
    module = made.module.to(device, memory_format=torch.channels_last).train()
    fit = FitState(module, context, Recipe(epochs=EPOCHS, learning_rate=0.001))
    fit.optimizer = make_optimizer(module, fit.recipe)
    images = torch.randn(options.batch, 3, 32, 32, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch,), device=device)
    if hook is not None:
        hook.start(fit)
    spent = 0.0

    def call(what: str) -> Any:
        nonlocal spent
        started = time.process_time()
        answer = getattr(hook, what)(fit) if hook is not None else {}
        spent += time.process_time() - started
        return answer

    def epoch() -> tuple[float, float]:
        nonlocal spent
        spent, started = 0.0, time.process_time()
        for _ in range(options.steps):
            call("before_step")
            loss = cross_entropy(module(images), labels)
            for penalty in call("penalties").values():
                loss = loss + penalty
            fit.optimizer.zero_grad()
            loss.backward()
            call("after_backward")
            fit.optimizer.step()
            call("after_step")
            fit.step += 1
        if images.device.type != "cpu":
            torch.cuda.synchronize()
        return time.process_time() - started, spent

    epoch()  # warm, and from here on each epoch has its move
    return epoch


if __name__ == "__main__":
    main()
