"""What fewer channels bring in measured time, and what finding and cutting them costs.

    python benchmarks/narrow.py                # ResNet-18 and VGG-19 at 2x and 4x fewer MACs, one thread
    python benchmarks/narrow.py --part cost    # the graph, the cut and its memory, of ResNet-50

Networks are timed in turns with the dense one, both deployed: plain layers in channels-last, no kernel. The share is
the measured speed-up over the ratio of MACs.
"""

from __future__ import annotations

import argparse
import copy
import resource
import statistics
import time

import torch

from paredown.core import blueprint
from paredown.core.network import Network
from paredown.core.target import Goal
from paredown.cost import count
from paredown.cost.latency import in_turns, use_threads
from paredown.graph.channels import channels
from paredown.runtime.rivals import DENSE, DEPLOYED, candidates
from paredown.surgery.narrowing import cut
from paredown.surgery.prefixes import prefixes
from paredown.surgery.width_budget import scoped, widths_for

NETWORKS = {
    "resnet18": {"_target_": "paredown.models.torchvision.resnet18", "stem": "cifar", "num_classes": 10},
    "vgg19": {"_target_": "paredown.models.cifar.vgg.vgg19_bn", "num_classes": 10},
}
MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["time", "cost"], default="time")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each pair")
    parser.add_argument("--round-to", type=int, default=8)
    options = parser.parse_args()
    with use_threads(options.threads):
        if options.part == "cost":
            measure_cost()
        else:
            for name in NETWORKS:
                for ratio in (2.0, 4.0):
                    measure_time(name, ratio, options)


def create(architecture: dict[str, object], size: int) -> Network:
    torch.manual_seed(0)
    network = blueprint.create(architecture, (3, size, size))
    network.module.eval()
    return network


def measure_time(name: str, ratio: float, options: argparse.Namespace) -> None:
    """Print the measured speed-up of `name` at `ratio` fewer MACs beside the ratio that its widths give."""
    dense = create(NETWORKS[name], 32)
    small = copy.deepcopy(dense)
    groups = scoped(small)
    cut(small, groups, prefixes(groups, widths_for(small, groups, Goal("speed_up", ratio), round_to=options.round_to)))
    macs = [count(network.module, network.input_shape).macs for network in (dense, small)]
    pairs = [
        candidates(kind, network, options.batch, torch.device("cpu"), "fp32", None, ["NHWC"])[0]
        for kind, network in ((DEPLOYED, small), (DENSE, dense))
    ]
    turns = in_turns([(pair.module, pair.images) for pair in pairs], options.seconds)
    low, middle, high = statistics.quantiles([slow / fast for fast, slow in turns], n=4)
    gain = macs[0] / macs[1]
    print(
        f"{name}: {gain:.2f}x fewer MACs, {middle:.2f}x faster ({low:.2f} to {high:.2f}, {len(turns)} turns): "
        f"{middle / gain:.0%} of the ratio",
        flush=True,
    )


def measure_cost() -> None:
    """Print what finding and cutting ResNet-50's channels takes, in processor seconds (of one thread: what an idle
    machine takes) and memory."""
    network = create({"_target_": "paredown.models.torchvision.resnet50", "num_classes": 1000}, 224)
    size = sum(t.numel() * t.element_size() for t in network.module.state_dict().values()) / MIB
    with torch.no_grad():
        network.module(torch.randn(2, 3, 224, 224))  # torch's own first use
    started = time.process_time()
    found = channels(network.module, network.input_shape)
    graph = time.process_time() - started
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    started = time.process_time()
    cut(network, found.groups, {g.name: list(range(g.size // 3)) for g in found.groups})
    seconds = time.process_time() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    print(f"ResNet-50: graph {graph:.2f} s, cut with its proof {seconds:.2f} s, {grown:.0f} MiB more at the peak")
    print(f"the network has {size:.0f} MiB: at the peak {1 + grown / size:.2f} times that")


if __name__ == "__main__":
    main()
