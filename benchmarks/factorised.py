"""One training step of SVD training against the same factorised step without penalties, and against the dense one.

    python benchmarks/factorised.py --depth 32 --batch 128 --threads 1

Forward, loss, backward and optimiser step on random images, interleaved over the rounds: medians of the ratios.
"""

from __future__ import annotations

import argparse
import statistics

import torch
from steps import parse, stepper

from paredown import blueprint
from paredown.methods.svd_training import factorise
from paredown.plan import Context, Network
from paredown.surgery.low_rank import convolutions
from paredown.training.factor_penalties import FactorOrthogonality, SingularValueSparsity

PENALTIES = (FactorOrthogonality(1.0), SingularValueSparsity(0.03, "hoyer"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=32)
    options = parse(parser)
    steps = {"dense": contender(options, None, ())}
    for form in ("channel", "spatial"):
        steps[form] = contender(options, form, ())
        steps[f"{form} + penalties"] = contender(options, form, PENALTIES)
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


def contender(options: argparse.Namespace, form: str | None, penalties: tuple):
    """A step of the network, factorised in `form` where one is given."""
    network: Network = blueprint.create(
        {"_target_": "paredown.models.resnet.cifar_resnet", "depth": options.depth}, (3, 32, 32)
    )
    if form:
        names = list(convolutions(network.module))
        factorise(network, Context(None, torch.device(options.device), 0), form, names, random=False)
    return stepper(
        network.module, options, lambda module: sum(sum(h.penalties(module, 0.0).values()) for h in penalties)
    )


if __name__ == "__main__":
    main()
