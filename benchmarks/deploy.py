"""Deployed networks against the dense one: whole networks in turns, one thread, the best layout of each.

    python benchmarks/deploy.py                       # SSC at 90, 95 and 98 %: VGG-19 and ResNet-32 of double width
    python benchmarks/deploy.py --what low_rank       # ResNet-18 and VGG-19 at a third of the MACs
    python benchmarks/deploy.py --what never_slower   # every model of conf/model: SSC, low rank, unstructured masks

Random weights: time does not depend on their values. `dense` is the better of NCHW and channels-last; `folded` has its
batch norms folded, too; `bf16` is dense in bfloat16, the better of both layouts, `half` is `auto` in bfloat16: both
where the processor has units for it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
import yaml
from torch import nn

from paredown.core import blueprint
from paredown.core.deploy import deploy
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Target
from paredown.cost import count
from paredown.cost.latency import device_name, in_turns
from paredown.layers.factorised.forms import Factorisation
from paredown.layers.factorised.low_rank import decompose
from paredown.layers.masked import maskable
from paredown.methods.low_rank.papers import FORMS
from paredown.methods.sparse.ssc.choice import apply_pair, choose
from paredown.methods.sparse.ssc.layers import Policy
from paredown.runtime.optimise import OptimisedNetwork, optimise
from paredown.surgery.factorise import convolutions
from paredown.surgery.rank_budget import ranks_at, reaching, uniform
from paredown.training.machine import has_bf16_units

CIFAR, SMALL = (3, 32, 32), (3, 64, 64)
VGG = {"_target_": "paredown.models.cifar.vgg.vgg19_bn"}
RESNET32 = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 32, "width": 2}
RESNET18 = {"_target_": "paredown.models.torchvision.resnet18", "stem": "cifar", "num_classes": 10}
Runs = dict[str, tuple[nn.Module, torch.Tensor]]
Rows = Iterable[tuple[str, Callable[[], Network]]]  # a network is made when it is asked for


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--what", choices=("ssc", "low_rank", "never_slower"), default="ssc")
    parser.add_argument("--models", default="", help="only those whose name contains one of these, with commas")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="for the search, and again for the comparison")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{device_name(torch.device('cpu'))}, {options.threads} thread(s), batch {options.batch}, {time.ctime()}")
    for name, network in {"ssc": ssc_rows, "low_rank": low_rank_rows, "never_slower": every_model}[options.what]():
        if any(part in name for part in options.models.split(",")):
            try:
                report(name, network(), options)
            except UserError:  # a network without the layers that the method is for
                continue


def ssc_rows() -> Rows:
    for name, architecture in (("vgg19", VGG), ("resnet32 x2", RESNET32)):
        for sparsity in (0.9, 0.95, 0.98):
            yield f"{name} ssc {sparsity:.0%}", partial(ssc, architecture, CIFAR, sparsity)


def low_rank_rows() -> Rows:
    for name, architecture in (("vgg19", VGG), ("resnet18", RESNET18)):
        for form, factorisation in FORMS.items():
            yield f"{name} low rank {form} 3x", partial(low_rank, architecture, CIFAR, factorisation)


def every_model() -> Rows:
    for path in sorted((Path(__file__).parents[1] / "conf" / "model").glob("*.yaml")):
        values = yaml.safe_load(path.read_text())
        architecture = {key: value for key, value in values.items() if key not in ("weights", "weight_decay")}
        shape = SMALL if ".torchvision." in values["_target_"] else CIFAR
        methods = {
            "ssc 90%": lambda a, s: ssc(a, s, 0.9),
            "low rank spatial 2x": lambda a, s: low_rank(a, s, "vertical_first", 2.0),
            "mask 90%": masked,
        }
        for method, make in methods.items():
            yield f"{path.stem} {method}", partial(make, architecture, shape)


def fresh(architecture: dict, shape: tuple[int, int, int]) -> Network:
    torch.manual_seed(0)
    return blueprint.create(architecture, shape)


def ssc(architecture: dict, shape: tuple[int, int, int], sparsity: float) -> Network:
    network = fresh(architecture, shape)
    pointwise = any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in network.module.modules())
    if pointwise:  # mobile networks, as the paper treats them
        choice = apply_pair(network.module, 0, 2, policy=Policy(pointwise_only=True))
    else:
        choice = choose(network.module, sparsity, policy=Policy())
    for name, (g, p) in choice.layers.items():
        blueprint.rewrite(network, name, "ssc", g=g, p=p)
    return network


def low_rank(
    architecture: dict, shape: tuple[int, int, int], factorisation: Factorisation, speed_up: float = 3.0
) -> Network:
    network = fresh(architecture, shape)
    convs, spectra, layers = convolutions(network.module), {}, {}
    for name, conv in convs.items():
        layers[name] = decompose(conv, factorisation)
        spectra[name] = layers[name].s.detach()
    designs = partial(uniform, factorisation=factorisation)
    energy = reaching(Target("speed_up", speed_up), network, spectra, designs)
    for name, rank in ranks_at(spectra, "energy", energy).items():
        layer = layers[name].truncated(rank)
        blueprint.place(network, name, layer, "low_rank", factorisation=factorisation, rank=rank)
    return network


def masked(architecture: dict, shape: tuple[int, int, int]) -> Network:
    """Return a network with a random tenth of the weights of each layer."""
    network = fresh(architecture, shape)
    for name in maskable(network.module):
        blueprint.rewrite(network, name, "masked")
        layer = network.module.get_submodule(name)
        layer.set_mask(torch.rand_like(layer.weight) < 0.1)
    return network


def report(name: str, network: Network, options: argparse.Namespace) -> None:
    """Print the MAC ratio, the backends, and for each rival its time and how much faster `auto` is."""
    dense = fresh(network.architecture, network.input_shape)
    macs = count(dense.module, dense.input_shape).macs / count(network.module, network.input_shape).macs
    images = torch.randn(options.batch, *network.input_shape)
    found = optimise(network, options.batch, seconds=options.seconds)
    runs: Runs = {"auto": (found.module, images)} | layouts("dense", dense, images)
    if options.what != "never_slower":
        portable = optimise(network, options.batch, seconds=options.seconds, portable=True)
        folded = optimise(dense, options.batch, seconds=1.0, portable=True)
        runs |= {"portable": (portable.module, images), "folded": (folded.module, images)}
        if has_bf16_units(torch.device("cpu")):
            half = optimise(network, options.batch, dtype=torch.bfloat16, seconds=options.seconds)
            runs |= {"half": (half.module, images.bfloat16())} | layouts("bf16", dense, images.bfloat16())
    turns = dict(zip(runs, zip(*in_turns(list(runs.values()), options.seconds), strict=True), strict=True))
    ms = {key: 1e3 * statistics.median(times) for key, times in turns.items()}
    print(f"{name}: {macs:.1f}x fewer MACs, {backends(found)}, {len(turns['auto'])} turns")
    compare("auto", ("dense", "folded", "bf16", "portable"), turns, ms)
    if "half" in runs:
        print(f"  in bf16: {backends(half)}")
        compare("half", ("bf16", "auto"), turns, ms)


def backends(found: OptimisedNetwork) -> dict[str, int]:
    return dict(Counter(found.choices["layers"].values()))


def compare(ours: str, rivals: tuple[str, ...], turns: dict[str, tuple[float, ...]], ms: dict[str, float]) -> None:
    print(f"  {ours} {ms[ours]:.1f} ms; faster than", end=" ")
    for rival in rivals:
        if every := [key for key in turns if key.split()[0] == rival]:
            best = min(every, key=ms.__getitem__)
            print(f"{best} {ratio(turns[best], turns[ours])} ({ms[best]:.1f} ms)", end=", ")
    print(flush=True)


def layouts(name: str, network: Network, images: torch.Tensor) -> Runs:
    """Return the plain deployed network in NCHW and channels-last, in the dtype of `images`."""
    found = {}
    for layout, words in ((torch.contiguous_format, "nchw"), (torch.channels_last, "nhwc")):
        module = deploy(network.module).to(images.dtype).to(memory_format=layout)
        found[f"{name} {words}"] = (module, images.to(memory_format=layout))
    return found


def ratio(slow: tuple[float, ...], fast: tuple[float, ...]) -> str:
    """Return the median and the quartiles of the single turns' ratios."""
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f}x ({low:.2f}-{high:.2f})"


if __name__ == "__main__":
    main()
