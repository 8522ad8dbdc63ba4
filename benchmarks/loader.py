"""The batched CIFAR-10 loader against a torchvision Dataset with a DataLoader, the same augmentation on both sides.

    python benchmarks/loader.py --root DATA/cifar10

The rival decodes nothing either: as torchvision's CIFAR10 it holds all pixels in memory and augments image by image,
in this process or in two workers; the faster of these counts. Rounds are interleaved, medians compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from paredown.data.datasets.cifar import Cifar

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
BATCH = 128


class OneByOne(Dataset):
    """CIFAR-10 as `torchvision.datasets.CIFAR10` serves it: pixels in memory, one PIL image at a time."""

    def __init__(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> None:
        self.images, self.labels = images, labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def seconds(loader: Iterable[Any]) -> float:
    started = time.perf_counter()
    for _ in loader:
        pass
    return time.perf_counter() - started


def contenders(root: Path, count: int, cache: str) -> dict[str, Callable[[], Iterable[Any]]]:
    augment = {"crop": 4, "flip": True}
    data = Cifar(
        variant=10,
        name="cifar10",
        root=str(root),
        cache=cache,
        mean=MEAN,
        std=STD,
        validation=0,
        fraction=count / 50_000,
        augment=augment,
    )
    data.prepare()
    raw = list(data.eval_loader("train", 1000, "cpu"))
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    pixels = torch.cat([((images * std + mean) * 255).round().byte() for images, _ in raw]).permute(0, 2, 3, 1)
    rival = OneByOne(pixels.contiguous().numpy(), torch.cat([labels for _, labels in raw]).numpy())
    return {
        "paredown": lambda: data.train_loader(BATCH, 0, "cpu"),
        "torchvision, no workers": lambda: DataLoader(rival, BATCH, shuffle=True),
        "torchvision, 2 workers": lambda: DataLoader(
            rival, BATCH, shuffle=True, num_workers=2, persistent_workers=True
        ),
    }


def measure(makers: dict[str, Callable[[], Iterable[Any]]], epochs: int) -> dict[str, list[float]]:
    """Seconds of every epoch by contender; a first pass, in which workers start and pages load, is left out."""
    loaders = {name: make() for name, make in makers.items()}
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for epoch in range(epochs + 1):
        for name, loader in loaders.items():
            took = seconds(loader)
            if epoch:
                times[name].append(took)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with CIFAR-10")
    parser.add_argument("--images", type=int, default=20_000, help="training images, at most 50,000")
    parser.add_argument("--epochs", type=int, default=5, help="timed passes of each contender")
    parser.add_argument("--json", type=Path, help="write the figures here")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as cache:
        times = measure(contenders(options.root, options.images, cache), options.epochs)
    rate = {name: options.images / statistics.median(values) for name, values in times.items()}
    best = max(value for name, value in rate.items() if name != "paredown")
    ratio = rate["paredown"] / best

    table = Table("loader", "images/s", "slowest to fastest", title=f"{options.images} images, {options.epochs} passes")
    for name, values in times.items():
        table.add_row(
            name, f"{rate[name]:,.0f}", f"{options.images / max(values):,.0f} to {options.images / min(values):,.0f}"
        )
    Console().print(table, f"paredown is {ratio:.1f} times as fast as the faster rival (goal: 4)")
    if options.json:
        figures = {"images_per_second": rate, "ratio": ratio, "seconds": times, "threads": torch.get_num_threads()}
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
