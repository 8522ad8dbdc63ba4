"""SSC networks at small batches: the native kernel's two forms against the dense network, in processor seconds.

    python benchmarks/few_images.py                       # VGG-19 at 90, 95 and 98 %, 1, 8 and 32 images, one thread
    python benchmarks/few_images.py --model resnet32 --sparsities 0.9

Dense is the faster of NCHW and channels-last, batch norms folded in. `native` has every convolution in blocks of 16
images, `pixels` those of stride 1 with zeros in the form for few images and the others plain. In turns; medians of the
turns' ratios with quartiles. Processor seconds of one thread are what an idle machine takes, up to what other work
drops from the caches.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from deploy import CIFAR, RESNET32, VGG, fresh, ssc
from torch import Tensor, nn

from paredown.core.network import Network
from paredown.cost import count
from paredown.cost.latency import device_name, use_threads
from paredown.runtime import backends, cpu_kernel
from paredown.runtime.optimise import build
from paredown.runtime.search import Setting
from paredown.runtime.units import Traced, Unit

CPU = torch.device("cpu")
NETWORKS = {"vgg19": VGG, "resnet32": RESNET32}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=NETWORKS, default="vgg19")
    parser.add_argument("--sparsities", default="0.9,0.95,0.98")
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    if not cpu_kernel.available():
        raise SystemExit("there is no native kernel here: the log says why")
    print(f"{device_name(CPU)}, one thread, {time.ctime()}")
    with use_threads(1), torch.inference_mode():
        for sparsity in map(float, options.sparsities.split(",")):
            network = ssc(NETWORKS[options.model], CIFAR, sparsity)
            for batch in map(int, options.batches.split(",")):
                print(row(f"{options.model} {sparsity:.0%}", network, batch, options.turns), flush=True)


def row(name: str, network: Network, batch: int, turns: int) -> str:
    """Return the times of each form on `batch` images, and how much faster each is than dense."""
    network.module.eval()
    dense = fresh(network.architecture, network.input_shape)
    dense.module.eval()
    gain = count(dense.module, CIFAR).macs / count(network.module, CIFAR).macs
    forms = {f"dense {layout}": form(dense, batch, layout, lambda unit: "plain") for layout in LAYOUTS}
    forms["native"] = form(network, batch, "channels_last", native)
    forms["pixels"] = form(network, batch, "contiguous", pixels)
    taken: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(turns):
        for key, run in forms.items():
            started = time.thread_time()
            run()
            taken[key].append(time.thread_time() - started)
    best = min((key for key in forms if key.startswith("dense")), key=lambda key: statistics.median(taken[key]))
    said = f"{name}, batch {batch}: {gain:.1f}x fewer MACs, {best} {1e3 * statistics.median(taken[best]):.2f} ms"
    for key in ("native", "pixels"):
        low, middle, high = statistics.quantiles([a / b for a, b in zip(taken[best], taken[key], strict=True)], n=4)
        said += f"; {key} {1e3 * statistics.median(taken[key]):.2f} ms, {middle:.2f}x ({low:.2f} to {high:.2f}) faster"
    return said


def form(network: Network, batch: int, layout: str, backend: Callable[[Unit], str]) -> Callable[[], Tensor]:
    """Return the call of `network` on `batch` images with the `backend` of each layer, after a warm-up."""
    setting = Setting(batch, CPU, torch.float32, portable=False)
    layers = {name: backend(unit) for name, unit in Traced(network).units.items()}
    module: nn.Module = build(network, setting.choices(layers, layout))
    images = setting.random_batch(network.input_shape).contiguous(memory_format=LAYOUTS[layout])
    module(images)
    return lambda: module(images)


def native(unit: Unit) -> str:
    return "native" if backends.native(unit) else "plain"


def pixels(unit: Unit) -> str:
    """Return the form for few images where zeros are left out; the stem has none."""
    return "pixels" if backends.density(unit) < 1 and backends.pixels(unit) else "plain"


if __name__ == "__main__":
    main()
