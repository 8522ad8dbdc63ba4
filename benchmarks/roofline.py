"""What the machine can do with each layer of a network under SSC, and what the native kernel reaches of it.

    python benchmarks/roofline.py                                 # VGG-19 at 90 %, 32 images, one thread
    python benchmarks/roofline.py --sparsity 0.98 --batch 1

The two limits are measured: multiply-adds a second in a product of two 1024 x 1024 matrices, bytes a second in
a copy of 64 MiB. A layer needs at least the longer of its multiply-adds (by weights that are not zero) at the first
and of its bytes (input, output and weights, each once) at the second. Taps outside the image, which the kernel skips,
are counted, and maps may stay in a cache: so more than 100 % can be reached. Times are medians of processor seconds on
one thread, which other work on the machine hardly changes, and of the clock's on more.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from deploy import CIFAR, RESNET32, VGG, ssc

from paredown.cost.latency import device_name, use_threads
from paredown.runtime import backends, cpu_kernel
from paredown.runtime.blocked_layers import to_blocks
from paredown.runtime.units import Traced, Unit

CPU, FLOAT, MIB, FEWEST = torch.device("cpu"), 4, 2**20, 5
HEAD = ("layer", "MB", "MMAC", "MAC/byte", "limit", "least, ms", "native, ms", "reached", "plain, ms")
NETWORKS = {"vgg19": VGG, "resnet32": RESNET32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NETWORKS, default="vgg19")
    parser.add_argument("--sparsity", type=float, default=0.9)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each layer and form")
    options = parser.parse_args()
    if not cpu_kernel.available():
        raise SystemExit("there is no native kernel here: the log says why")
    with use_threads(options.threads), torch.inference_mode():
        products, copied = limits(options.seconds)
        print(f"{device_name(CPU)}, {options.threads} thread(s), {options.batch} images, {time.ctime()}")
        print(f"at most {products / 1e9:.0f} GMAC/s and {copied / 1e9:.1f} GB/s\n")
        print(f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|")
        for name, unit in distinct(Traced(ssc(NETWORKS[options.model], CIFAR, options.sparsity))).items():
            print(row(name, unit, options, products, copied), flush=True)


def limits(seconds: float) -> tuple[float, float]:
    """Return multiply-adds and bytes a second of this machine."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    source, target = torch.randn(16 * MIB), torch.empty(16 * MIB)
    moved = 2 * FLOAT * source.numel()
    return 1024**3 / middle(partial(torch.mm, a, b), seconds), moved / middle(partial(target.copy_, source), seconds)


def distinct(traced: Traced) -> dict[str, Unit]:
    """Return one convolution of each geometry by its channels, map and stride."""
    found: dict[str, Unit] = {}
    for unit in traced.units.values():
        if hasattr(unit.layer, "stride"):
            channels = f"{unit.layer.in_channels} to {unit.layer.out_channels}"
            stride = f", stride {unit.layer.stride[0]}" if unit.layer.stride[0] > 1 else ""
            found.setdefault(f"{channels}, {unit.input_shape[2]} x {unit.input_shape[3]}{stride}", unit)
    return found


def row(name: str, unit: Unit, options: argparse.Namespace, products: float, copied: float) -> str:
    x = torch.randn(options.batch, *unit.input_shape[1:])
    plain, native = backends.plain(unit), backends.native(unit)
    assert native is not None
    y = plain(x)
    weights = int(plain.weight.count_nonzero())
    macs = weights * y.numel() // y.shape[1]
    moved = FLOAT * (x.numel() + y.numel() + weights)
    bounds = {"arithmetic": macs / products, "memory": moved / copied}
    limit = max(bounds, key=bounds.__getitem__)
    ours = middle(partial(native, to_blocks(x)), options.seconds)
    layout = {"memory_format": torch.channels_last}
    theirs = middle(partial(plain.to(**layout), x.to(**layout)), options.seconds)
    cells = [name, f"{moved / 1e6:.2f}", f"{macs / 1e6:.1f}", f"{macs / moved:.1f}", limit]
    cells += [f"{1e3 * bounds[limit]:.3f}", f"{1e3 * ours:.3f}", f"{bounds[limit] / ours:.0%}", f"{1e3 * theirs:.3f}"]
    return "| " + " | ".join(cells) + " |"


def middle(run: Callable[[], object], seconds: float) -> float:
    """Return the median seconds of a call."""
    run()
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    taken, ended = [], time.perf_counter() + seconds
    while len(taken) < FEWEST or time.perf_counter() < ended:
        started = clock()
        run()
        taken.append(clock() - started)
    return statistics.median(taken)


if __name__ == "__main__":
    main()
