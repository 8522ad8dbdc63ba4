"""One training step of SVD training at full rank: by the product of the factors, as it is, and by two convolutions.

    python benchmarks/factorised.py --depth 32 --batch 128 --threads 1

Forward, loss, backward and optimiser step on random images, interleaved over the rounds: medians of the ratios. The
step with both penalties is held against that without, and that against the dense one and the one by two convolutions.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from steps import compared, in_turns, parse, stepper

from paredown.core import blueprint
from paredown.core.hooks import Context, FitState
from paredown.core.network import Network
from paredown.core.recipe import Recipe
from paredown.layers.factorised.low_rank import low_rank_layers
from paredown.methods.low_rank.papers import FORMS, Form
from paredown.methods.low_rank.svd_training import factorise
from paredown.surgery.factorise import convolutions
from paredown.training.hooks.factor_penalties import FactorOrthogonality, SingularValueSparsity

PENALTIES = (FactorOrthogonality(1.0), SingularValueSparsity(0.03, "hoyer"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=32)
    options = parse(parser)
    steps = {"dense": contender(options, None, ())}
    for form in FORMS:
        steps[form] = contender(options, form, ())
        steps[f"{form} + penalties"] = contender(options, form, PENALTIES)
        steps[f"{form}, two convolutions"] = contender(options, form, (), product=False)
    seconds = in_turns(steps, options.rounds)
    for form in FORMS:
        for name, rival in ((f"{form} + penalties", form), (form, "dense"), (f"{form}, two convolutions", form)):
            print(compared(seconds, name, rival))
    print(f"a dense step: {statistics.median(seconds['dense']):.3f} s, batch {options.batch}")


def contender(options: argparse.Namespace, form: Form | None, penalties: tuple, product: bool = True):
    """Make a step of the network, factorised in `form` where one is given; by the product where that is cheaper."""
    network: Network = blueprint.create(
        {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": options.depth}, (3, 32, 32)
    )
    if form:
        names = list(convolutions(network.module))
        factorise(network, Context(None, torch.device(options.device), 0), FORMS[form], names, random=False)
        for layer in () if product else low_rank_layers(network.module).values():
            layer._product_is_cheaper = lambda shape: False
    fit = FitState(network.module, Context(None, torch.device(options.device), 0), Recipe(epochs=1))
    return stepper(network.module, options, lambda _: sum(sum(hook.penalties(fit).values()) for hook in penalties))


if __name__ == "__main__":
    main()
