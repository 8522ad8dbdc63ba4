"""AutoAugment of a batch against torchvision's, image by image, and against a training step of S-FC; beta-LASSO's step
against SGD's; a linear layer with few weights as a sparse matrix against the dense one with zeros.

    python benchmarks/beta_lasso.py --alpha 8 --batch 512 --threads 1

In turns over the rounds: medians of the ratios, in brackets the lowest and highest.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torchvision.transforms import AutoAugment, AutoAugmentPolicy

from paredown.data.augment.auto_augment import policy
from paredown.data.augment.pipeline import POLICY, Augmentation
from paredown.layers.masked import MaskedLinear
from paredown.layers.sparse import MaskedSparse
from paredown.models.cifar.counterparts import counterpart
from paredown.training.hooks.beta_lasso import BetaLasso


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alpha", type=int, default=8)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    augmenting(options.alpha, options.batch, options.rounds)
    for density in (0.2, 0.05, 0.01):
        shipping(options.alpha, density, options.rounds)


def augmenting(alpha: int, batch: int, rounds: int) -> None:
    images = torch.randint(0, 256, (batch, 32, 32, 3), dtype=torch.uint8)
    labels = torch.randint(10, (batch,))
    draws = Augmentation(policy="cifar10").draw(batch, 32, 32, torch.Generator().manual_seed(0))[:, POLICY:]
    ours, theirs = policy("cifar10", 32, 32, torch.device("cpu")), AutoAugment(AutoAugmentPolicy.CIFAR10)
    network, floats = counterpart("s", "fc", alpha), images.permute(0, 3, 1, 2).float()
    lasso = BetaLasso(network.parameters(), lr=1e-6, decay=1e-5)
    sgd = torch.optim.SGD(network.parameters(), lr=1e-6, foreach=True)

    def step() -> None:
        lasso.zero_grad()
        cross_entropy(network(floats), labels).backward()
        lasso.step()

    compare(
        f"AutoAugment of {batch} images",
        lambda: ours(images, draws),
        {
            "torchvision one by one": lambda: [theirs(image) for image in images.permute(0, 3, 1, 2)],
            f"a step of S-FC, alpha {alpha}": step,
        },
        rounds,
    )
    compare("the optimiser's step", lasso.step, {"SGD's": sgd.step, "the whole training step": step}, rounds)


def shipping(alpha: int, density: float, rounds: int) -> None:
    dense = nn.Linear(3072, 256 * alpha, bias=False)
    mask = torch.rand(dense.weight.shape) < density
    plain, sparse = MaskedLinear(dense, mask).deployed(), MaskedSparse(dense, mask).deployed()
    inputs = torch.randn(32, 3072)
    with torch.inference_mode():
        name = f"{256 * alpha} x 3072, {density:.0%} of the weights, 32 inputs, sparse"
        compare(name, lambda: sparse(inputs), {"dense": lambda: plain(inputs)}, 5 * rounds)


def compare(name: str, own: Callable[[], object], rivals: dict[str, Callable[[], object]], rounds: int) -> None:
    runs = {name: own, **rivals}
    seconds: dict[str, list[float]] = {label: [] for label in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for label, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[label].append(time.perf_counter() - started)
    print(f"{name}: {1e3 * statistics.median(seconds[name]):.2f} ms")
    for label in rivals:
        ratios = sorted(mine / other for mine, other in zip(seconds[name], seconds[label], strict=True))
        middle = statistics.median(ratios)
        print(f"  / {label}: {middle:.3f}x the time ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
