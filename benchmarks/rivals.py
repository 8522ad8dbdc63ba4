"""Torch-Pruning 1.6.1 beside ours: the same channels cut, and a trained network halved.

    pip install --target /tmp/rivals --no-deps torch-pruning==1.6.1      # never into paredown's environment
    PYTHONPATH=/tmp/rivals python benchmarks/rivals.py                   # the same channels in, the same network out
    PYTHONPATH=/tmp/rivals python benchmarks/rivals.py --part accuracy dataset=cifar10 output=outputs/leaderboard

The second halves the leaderboard's dense ResNet-20, trained on 200,000 images, by Torch-Pruning's L2 groups and by our
filter methods beside a low-rank one, and finetunes each on one epoch, by the same loop; three seeds. What follows are
words of run.py.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.core.places import SWEEPS
from paredown.core.plan import Fit
from paredown.core.recipe import RecipeOverrides
from paredown.core.yaml_files import read_yaml
from paredown.cost import count
from paredown.experiment.prepare import prepare
from paredown.graph.channels import Group, channels
from paredown.run import walk
from paredown.surgery.narrowing import cut
from paredown.training.evaluate import evaluate
from paredown.training.fit import fit

MODELS: dict[str, dict[str, Any]] = {
    "resnet56 with projections": {
        **{"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 56, "shortcut": "B"},
    },
    "mobilenet_v2_cifar": {"_target_": "paredown.models.cifar.mobilenet.mobilenet_v2_cifar", "num_classes": 10},
}
PROTOCOL = read_yaml(SWEEPS / "leaderboard_cifar10.yaml", "restore it")["protocols"]["short"]
DENSE = ["model=resnet20", *PROTOCOL]  # the leaderboard's: not trained again in its output folder
TUNED = [*(word for word in DENSE if not word.startswith("budget.")), "recipe.epochs=1"]
FINETUNE = "method.finetune={epochs:1,learning_rate:null,milestones:null}"
OURS = {  # each spends one epoch after the dense training
    "l1_filters": [FINETUNE],
    "group_norm": ["method.decay=0", FINETUNE],
    "nisp": [FINETUNE],
    "sfp": ["method.soft.epochs=1"],
    "fpgm": ["method.soft.epochs=1"],
    "c_sgd": ["method.centripetal.epochs=1", "method.strength=0.3"],
    "zhang": [FINETUNE],
}
STEPS = 200  # of Torch-Pruning, to nine tenths of the channels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["same", "accuracy"], default="same")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--speed-up", type=float, default=2.0)
    options, words = parser.parse_known_args()
    if find_spec("torch_pruning") is None:
        parser.error("there is no torch_pruning on PYTHONPATH: see --help")
    if options.part == "accuracy":
        compare_accuracy(options.seeds, options.speed_up, words)
    else:
        for name, architecture in MODELS.items():
            compare_cuts(name, architecture)


# --- the same channels ---


def compare_cuts(name: str, architecture: dict[str, Any]) -> None:
    """Cut a random third of every group's channels with both, and print how far the two networks' outputs, in float64
    with random batch norm statistics, are apart, and the processor seconds of each."""
    network = random_network(architecture)
    theirs = copy.deepcopy(network.module)
    started = time.process_time()
    groups = channels(network.module, network.input_shape).groups
    graph = time.process_time() - started
    generator = torch.Generator().manual_seed(1)
    removed = {g.name: torch.randperm(g.size, generator=generator)[: g.size // 3].tolist() for g in groups}
    started = time.process_time()
    cut(network, groups, removed)
    ours = time.process_time() - started
    their_graph, their_cut = cut_by_them(theirs, network.input_shape, groups, removed)
    images = torch.randn(4, *network.input_shape, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        a, b = network.module(images), theirs(images)
    shapes = [{n: tuple(p.shape) for n, p in m.named_parameters()} for m in (network.module, theirs)]
    print(
        f"{name}: {len(groups)} groups, {sum(map(len, removed.values()))} channels cut; the same shapes: "
        f"{shapes[0] == shapes[1]}; outputs differ by {float((a - b).abs().max() / b.abs().max()):.1e} of the largest\n"
        f"  ours: graph {graph:.2f} s, cut with its proof {ours:.2f} s; "
        f"Torch-Pruning: graph {their_graph:.2f} s, cut {their_cut:.2f} s",
        flush=True,
    )


def random_network(architecture: dict[str, Any]) -> Network:
    torch.manual_seed(0)
    network = blueprint.create(architecture, (3, 32, 32))
    for layer in network.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor in (layer.running_mean, layer.weight, layer.bias):
                nn.init.normal_(tensor)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    network.module.double().eval()
    with torch.no_grad():
        network.module(torch.randn(2, 3, 32, 32, dtype=torch.float64))  # torch's own first use
    return network


def cut_by_them(
    module: nn.Module, shape: tuple[int, ...], groups: tuple[Group, ...], removed: dict[str, list[int]]
) -> tuple[float, float]:
    """Cut the same channels with Torch-Pruning, from the first convolution of each group. Return its seconds for the
    graph and for the cuts."""
    import torch_pruning as tp

    started = time.process_time()
    graph = tp.DependencyGraph().build_dependency(module, example_inputs=torch.randn(1, *shape, dtype=torch.float64))
    built = time.process_time()
    for group in groups:
        member = next(m for m in group.members if m.axis == "out" and _writes(module.get_submodule(m.layer)))
        index = member.table[removed[group.name]].flatten().tolist()
        layer = module.get_submodule(member.layer)
        graph.get_pruning_group(layer, tp.prune_conv_out_channels, idxs=sorted(index)).prune()
    return built - started, time.process_time() - built


def _writes(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups == 1


# --- accuracy ---


def compare_accuracy(seeds: int, speed_up: float, words: list[str]) -> None:
    """Print the top-1 of the halved networks before and after an epoch of finetuning, means over seeds."""
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for seed in range(seeds):
        common = [*words, f"seed={seed}", "tracking=off"]
        dense = walk.run(["method=dense", *DENSE, *common])
        weights = f"model.weights={dense.state / blueprint.WEIGHTS}"
        print(f"seed {seed}: dense {dense.metrics['final/top1']:.2f} %", flush=True)
        for method, own in OURS.items():
            metrics = walk.run([f"method={method}", *own, *TUNED, weights, f"speed_up={speed_up:g}", *common]).metrics
            before = metrics.get("pruned/top1", metrics.get("decomposed/top1", float("nan")))
            found[method].append((before, metrics["final/top1"], metrics["cost/speed_up"]))
        for ordering in ("uniform", "global"):
            found[f"Torch-Pruning, {ordering}"].append(
                halved_by_them(dense.state, ordering == "global", speed_up, [*TUNED, *common])
            )
        for name, rows in found.items():
            print(f"  {name}: {rows[-1][0]:.2f} % before, {rows[-1][1]:.2f} % after, {rows[-1][2]:.2f}x", flush=True)
    for name, rows in found.items():
        means = [statistics.mean(values) for values in zip(*rows, strict=True)]
        spread = statistics.stdev(row[1] for row in rows) if len(rows) > 1 else float("nan")
        print(f"{name}: {means[0]:.2f} % before, {means[1]:.2f} +- {spread:.2f} % after, {means[2]:.2f}x")


def halved_by_them(state: Path, overall: bool, speed_up: float, words: list[str]) -> tuple[float, float, float]:
    """Cut the network in `state` by Torch-Pruning's L2 groups until it has `speed_up` fewer MACs, and finetune it as
    ours. Return its top-1 before and after, and how many times fewer MACs it has."""
    import torch_pruning as tp

    network = blueprint.read(state)
    shape = network.input_shape
    dense = count(network.module, shape).macs
    linear = [layer for layer in network.module.modules() if isinstance(layer, nn.Linear)]
    settings = {"global_pruning": overall, "pruning_ratio": 0.9, "iterative_steps": STEPS, "ignored_layers": linear}
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    pruner = tp.pruner.BasePruner(network.module, torch.randn(1, *shape), importance, **settings)
    while (macs := count(network.module, shape).macs) > dense / speed_up:
        pruner.step()
    experiment = prepare(compose(["method=dense", *words]))
    device = torch.device("cpu")
    loader = experiment.data.eval_loader("test", 256, device)
    before = evaluate(network.module, loader, device)["top1"]
    stage = Fit("finetune", experiment.recipe.changed(RecipeOverrides()))
    context = Context(experiment.data, device, experiment.config["seed"])
    with tempfile.TemporaryDirectory() as folder:
        fit(network, stage, context, experiment.machine, Path(folder), lambda epoch, row: None)
    return before, evaluate(network.module, loader, device)["top1"], dense / macs


if __name__ == "__main__":
    main()
