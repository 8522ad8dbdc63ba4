"""A training step of SSC in packed form against the masked dense form, in turns.

    python benchmarks/packed.py --model vgg19 --sparsity 0.9 --batch 128 --precision 32

Forward, loss, backward and optimiser step on random images, batch norm in training mode, channels-last; medians and the
middle half of the single rounds' ratios. The layers are those that `method.packed=auto` packs (`--all`: true).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time

import torch
from steps import parse, stepper

from paredown.core import blueprint
from paredown.core.hooks import Context, FitState
from paredown.core.plan import Edit, Fit
from paredown.core.recipe import Recipe
from paredown.core.target import Target
from paredown.cost.latency import device_name
from paredown.methods.sparse.ssc.method import SSC

RESNET = "paredown.models.cifar.resnet.cifar_resnet"
MODELS = {
    "vgg19": {"_target_": "paredown.models.cifar.vgg.vgg19_bn"},
    "resnet20": {"_target_": RESNET, "depth": 20},
    "resnet32": {"_target_": RESNET, "depth": 32},
    "resnet32x2": {"_target_": RESNET, "depth": 32, "width": 2},
    "resnet18": {"_target_": "paredown.models.torchvision.resnet18", "stem": "cifar", "num_classes": 10},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="vgg19")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--precision", choices=("32", "bf16"), default="32")
    parser.add_argument("--all", action="store_true", help="pack every layer that splits")
    options = parse(parser)
    network = blueprint.create(MODELS[options.model], (3, 32, 32))
    recipe = Recipe(epochs=1, learning_rate=0.001, precision=options.precision)
    method = SSC(packed=True if options.all else "auto")
    edit, fit = method.plan(Target("sparsity", options.sparsity), network, recipe)
    assert isinstance(edit, Edit) and isinstance(fit, Fit)
    context = Context(None, torch.device(options.device), 0)
    edit.function(network, context, **edit.arguments)
    packed = sum(len(hook.layers) for hook in fit.hooks)
    steps = []
    for hooks in ((), fit.hooks):
        module = copy.deepcopy(network.module)
        for hook in hooks:
            hook.start(FitState(module, context, recipe))
        steps.append(stepper(module, options, half=options.precision == "bf16"))
    for step in steps * 2:
        step()
    rounds = [[step() for step in steps] for _ in range(options.rounds)]
    low, middle, high = statistics.quantiles([masked / own for masked, own in rounds], n=4)
    ms = [1e3 * statistics.median(column) for column in zip(*rounds, strict=True)]
    where = f"{device_name(context.device)}, {options.threads} thread(s), {time.strftime('%F %R')}"
    print(f"{options.model} {options.sparsity:.0%} batch {options.batch} precision {options.precision} ({where})")
    print(
        f"  {packed} of {len(network.blueprint)} layers packed: {ms[0]:.0f} ms masked, {ms[1]:.0f} ms packed, ", end=""
    )
    print(f"{middle:.2f}x ({low:.2f}-{high:.2f}) in {options.rounds} rounds")


if __name__ == "__main__":
    main()
