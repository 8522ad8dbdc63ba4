"""One training step of SVD training against the same factorised step without penalties, and against the dense one.

    python benchmarks/factorised.py --depth 32 --batch 128 --threads 1

Forward, loss, backward and optimiser step on random images, interleaved over the rounds: medians of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch.nn.functional import cross_entropy

from paredown import blueprint
from paredown.methods.svd_training import factorise
from paredown.plan import Context, Network, Recipe
from paredown.surgery.low_rank import convolutions
from paredown.training.factor_penalties import FactorOrthogonality, SingularValueSparsity
from paredown.training.module import make_optimizer

PENALTIES = (FactorOrthogonality(1.0), SingularValueSparsity(0.03, "hoyer"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    steps = {"dense": stepper(options, None, ())}
    for form in ("channel", "spatial"):
        steps[form] = stepper(options, form, ())
        steps[f"{form} + penalties"] = stepper(options, form, PENALTIES)
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        for name, step in steps.items():
            seconds[name].append(step())
    for form in ("channel", "spatial"):
        for name, rival in ((f"{form} + penalties", form), (form, "dense")):
            ratios = [own / other for own, other in zip(seconds[name], seconds[rival], strict=True)]
            low, high = min(ratios), max(ratios)
            print(f"{name} / {rival}: {statistics.median(ratios):.3f}x ({low:.3f} to {high:.3f}, {len(ratios)} rounds)")
    print(f"a dense step: {statistics.median(seconds['dense']):.3f} s, batch {options.batch}")


def stepper(options: argparse.Namespace, form: str | None, penalties: tuple):
    """A function that makes one training step and returns its seconds."""
    network: Network = blueprint.create(
        {"_target_": "paredown.models.resnet.cifar_resnet", "depth": options.depth}, (3, 32, 32)
    )
    if form:
        names = list(convolutions(network.module))
        factorise(network, Context(None, torch.device(options.device), 0), form, names, random=False)
    module = network.module.to(options.device, memory_format=torch.channels_last).train()
    optimizer = make_optimizer(module, Recipe(epochs=1, learning_rate=0.001))
    images = torch.randn(options.batch, 3, 32, 32, device=options.device).to(memory_format=torch.channels_last)
    labels = torch.randint(10, (options.batch,), device=options.device)

    def step() -> float:
        started = time.perf_counter()
        optimizer.zero_grad()
        loss = cross_entropy(module(images), labels)
        for hook in penalties:
            loss = loss + sum(hook.penalties(module, 0.0).values())
        loss.backward()
        optimizer.step()
        if options.device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return step


if __name__ == "__main__":
    main()
