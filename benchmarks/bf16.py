"""A training step in bf16 where a processor has no instructions for it: as fits make it, as torch does, and in fp32.

    python benchmarks/bf16.py --batch 128 --threads 1 [--models resnet20 vgg19]

Forward, loss, backward and optimiser step on random images, interleaved over the rounds: medians of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from steps import parse, stepper

from paredown.core import blueprint
from paredown.training.bf16 import bf16_products
from paredown.training.machine import has_bf16_units

CPU = torch.device("cpu")
MODELS = {
    "resnet20": {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 20},
    "vgg19": {"_target_": "paredown.models.cifar.vgg.vgg19_bn"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    options = parse(parser)
    if has_bf16_units(CPU):
        parser.error("this processor has bf16 instructions, which fits use")
    for model in options.models:
        steps = {"fp32": contender(model, options, half=False), "torch's bf16": contender(model, options, half=True)}
        steps["ours"] = rounded(contender(model, options, half=True))
        for step in steps.values():
            step()
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(options.rounds):
            for name, step in steps.items():
                seconds[name].append(step())
        for name, rival in (("torch's bf16", "ours"), ("ours", "fp32")):
            ratios = [own / other for own, other in zip(seconds[name], seconds[rival], strict=True)]
            first, middle, third = statistics.quantiles(ratios, n=4)
            print(f"{model}: {name} / {rival}: {middle:.2f}x (quartiles {first:.2f} to {third:.2f})", flush=True)
        times = ", ".join(f"{name} {1000 * statistics.median(all_):.0f} ms" for name, all_ in seconds.items())
        print(f"{model}: {times}, batch {options.batch}", flush=True)


def contender(model: str, options: argparse.Namespace, half: bool) -> Callable[[], float]:
    """Make a step of a fresh network, in fp32 or under autocast to bf16."""
    return stepper(blueprint.create(MODELS[model], (3, 32, 32)).module, options, half=half)


def rounded(step: Callable[[], float]) -> Callable[[], float]:
    """Make `step` as a fit makes it where there are no bf16 instructions."""

    def run() -> float:
        with bf16_products(CPU):
            return step()

    return run


if __name__ == "__main__":
    main()
