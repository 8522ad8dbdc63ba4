"""What is exported to ONNX against the dense network's export, both under onnxruntime, in turns.

    python benchmarks/exported.py                     # SSC, low rank and fewer filters, VGG-19 and ResNet-18
    python benchmarks/exported.py --only vgg19,90     # rows whose name contains all of these
    python benchmarks/exported.py --int8              # and each in 8 bits, beside the dense network in fp32

Random weights: time does not depend on their values. The share is the measured speed-up over the ratio of MACs.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from deploy import CIFAR, RESNET18, VGG, fresh, low_rank, ssc

from paredown.core.network import Network
from paredown.core.target import Goal
from paredown.cost import count
from paredown.cost.latency import device_name, use_threads
from paredown.export import int8_file, onnx_file
from paredown.export.files import Source
from paredown.export.onnx_engine import OnnxRuntime
from paredown.export.speed import speeds
from paredown.runtime.optimise import build, optimise
from paredown.surgery.narrowing import cut
from paredown.surgery.prefixes import prefixes
from paredown.surgery.width_budget import scoped, widths_for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="only rows whose name contains all of these, with commas")
    parser.add_argument("--batch", type=int, default=1, help="images at once that the form is chosen for")
    parser.add_argument("--search", type=float, default=8.0, help="seconds in which whole networks are compared")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each comparison with the dense network")
    parser.add_argument("--int8", action="store_true")
    options = parser.parse_args()
    print(f"{device_name(torch.device('cpu'))}, one image at a time, {time.ctime()}")
    for name, make in rows().items():
        if all(part in name for part in options.only.split(",")):
            with use_threads(1), TemporaryDirectory() as folder:
                measure(name, make(), Path(folder), options)


def rows() -> dict[str, Callable[[], Network]]:
    found: dict[str, Callable[[], Network]] = {}
    for name, architecture in (("vgg19", VGG), ("resnet18", RESNET18)):
        for sparsity in (0.9, 0.95, 0.98):
            found[f"{name} ssc {sparsity:.0%}"] = partial(ssc, architecture, CIFAR, sparsity)
        for form in ("in_group", "vertical_first"):
            found[f"{name} low rank {form} 3x"] = partial(low_rank, architecture, CIFAR, form)
        found[f"{name} filters 3x"] = partial(narrow, architecture)
    return found


def narrow(architecture: dict) -> Network:
    """Return a network with a third of the MACs by one rate for all channels, in multiples of 8."""
    small = copy.deepcopy(fresh(architecture, CIFAR))
    groups = scoped(small)
    cut(small, groups, prefixes(groups, widths_for(small, groups, Goal("speed_up", 3.0), round_to=8)))
    return small


def measure(name: str, network: Network, folder: Path, options: argparse.Namespace) -> None:
    """Print the measured speed-up of `network` on each number of threads beside its MAC ratio, and the form chosen."""
    dense = fresh(network.architecture, network.input_shape)
    for one in (network, dense):
        one.module.eval()
    gain = count(dense.module, CIFAR).macs / count(network.module, CIFAR).macs
    found = optimise(network, options.batch, seconds=options.search, portable=True, engine=OnnxRuntime())
    files = {"fp32": folder / "model.onnx", "dense": folder / "dense.onnx", "int8": folder / "int8.onnx"}
    onnx_file.write(Source(network, found.module, found.choices, {}), files["fp32"])
    onnx_file.write(Source(dense, build(dense, {}), {}, {}), files["dense"])
    form = f"{dict(Counter(found.choices['layers'].values()))} in {found.choices['groups'] or 1} group(s)"
    print(f"{name}: {gain:.1f}x fewer MACs, {form}")
    if options.int8:
        int8_file.write(files["fp32"], files["int8"], [torch.randn(64, *CIFAR)], {})
    for kind in ("fp32", "int8") if options.int8 else ("fp32",):
        for one in speeds(files[kind], files["dense"], CIFAR, options.seconds):
            print(
                f"  {kind}, {one.threads} thread(s): {one.ms:.2f} ms, {one.speed_up:.2f}x faster "
                f"({one.speed_up_low:.2f} to {one.speed_up_high:.2f}, {one.turns} turns), {one.speed_up / gain:.0%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
