"""A training step in bf16 where a processor has no instructions for it: as fits make it, as torch does, and in fp32.

    python benchmarks/bf16.py --batch 128 --threads 1 [--models resnet20 vgg19]

Forward, loss, backward and optimiser step on random images, interleaved over the rounds: medians of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from steps import compared, in_turns, parse, stepper

from paredown.core import blueprint
from paredown.training.machine import has_bf16_units

MODELS = {
    "resnet20": {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 20},
    "vgg19": {"_target_": "paredown.models.cifar.vgg.vgg19_bn"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS])
    options = parse(parser)
    if has_bf16_units(torch.device("cpu")):
        parser.error("this processor has bf16 instructions, which fits use")
    for model in options.models:
        forms = {"fp32": {}, "torch's bf16": {"half": True, "torchs": True}, "ours": {"half": True}}
        steps = {name: contender(model, options, **form) for name, form in forms.items()}
        seconds = in_turns(steps, options.rounds)
        for name, rival in (("torch's bf16", "ours"), ("ours", "fp32")):
            print(f"{model}: {compared(seconds, name, rival)}", flush=True)
        times = ", ".join(f"{name} {1000 * statistics.median(all_):.0f} ms" for name, all_ in seconds.items())
        print(f"{model}: {times}, batch {options.batch}", flush=True)


def contender(model: str, options: argparse.Namespace, **form: bool) -> Callable[[], float]:
    """Make a step of a fresh network in a `form` of `stepper`."""
    return stepper(blueprint.create(MODELS[model], (3, 32, 32)).module, options, **form)


if __name__ == "__main__":
    main()
