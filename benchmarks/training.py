"""Training with our defaults against hand-written loops: time per epoch, peak memory, accuracy after the last epoch.

    python benchmarks/training.py --root DATA/cifar10 --model resnet20 [--images 2000] [--classes 2] [--minutes 9]

Three contenders, one process each, interleaved over the rounds; all see the same batches and evaluate the same images:
  plain     a bare PyTorch loop, fp32, NCHW, the allocator as it is
  tuned     a bare PyTorch loop with our precision, memory layout and allocator
  paredown  Lightning, our callbacks and MLflow records
Rounds end with `--minutes`; the first class or two of CIFAR-10 keep the evaluation short beside the training.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

CONTENDERS = ("plain", "tuned", "paredown")
# for `plain`: the default of glibc, whose mention keeps `core.memory.keep_freed` from changing anything
AS_IT_IS = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=7"}
PER_CLASS = 5000  # training images of CIFAR-10


def settings(options: argparse.Namespace, output: str) -> list[str]:
    fraction = f"dataset.fraction={options.images / (PER_CLASS * options.classes)}"
    data = ["dataset=cifar10", f"dataset.root={options.root}", "dataset.validation=0", fraction]
    data += [f"dataset.classes={options.classes}"]
    run = [
        f"recipe.epochs={options.epochs}",
        f"model={options.model}",
        f"output={output}",
        "trainer.progress=false",
    ]
    return [*data, *run, *options.overrides]


def contend(name: str, options: argparse.Namespace) -> dict[str, float]:
    """One contender's seconds per epoch (median, the first left out), peak memory in MiB, and test accuracy."""
    import torch

    from paredown.core.config import compose
    from paredown.core.memory import keep_freed
    from paredown.experiment.prepare import prepare

    if name != "plain":
        keep_freed()  # as `run.walk` does before the stages
    with tempfile.TemporaryDirectory() as output:
        experiment = prepare(compose(settings(options, output)))
        torch.manual_seed(0)
        if name == "paredown":
            epochs, top1 = lightning(experiment)
        else:
            epochs, top1 = by_hand(experiment, tuned=name == "tuned")
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": statistics.median(epochs[1:]), "memory": memory, "top1": top1}


def lightning(experiment):
    from paredown.core.hooks import Context
    from paredown.run.walk import _recorded, _reporter, _tracker
    from paredown.training.fit import fit

    step, tracker = experiment.steps[-1], _tracker(experiment)
    stamps = [time.perf_counter()]
    with _recorded(experiment, tracker):
        report = _reporter(experiment, tracker)

        def mark(epoch, row):
            report(row, epoch)
            stamps.append(time.perf_counter())

        folder = experiment.store.scratch_folder(step.key)
        context = Context(step.data, experiment.device, step.seed)
        rows = fit(experiment.dense(), step.stage, context, experiment.machine, folder, mark)
    return [b - a for a, b in pairwise(stamps)], rows[-1]["test/top1"]


def by_hand(experiment, tuned: bool):
    import torch
    from torch.nn import functional

    from paredown.training.module import make_optimizer
    from paredown.training.schedule import rate_factor

    recipe, data, device = experiment.recipe, experiment.data, experiment.device
    network = experiment.dense().module.to(device)
    layout = torch.channels_last if tuned and recipe.channels_last else torch.contiguous_format
    network = network.to(memory_format=layout)
    half = tuned and recipe.precision == "bf16"
    optimizer = make_optimizer(network, recipe)
    train = data.train_loader(recipe.batch_size, experiment.steps[-1].seed, device)
    test = data.eval_loader("test", experiment.machine.eval_batch_size, device)
    seconds = []
    for epoch in range(recipe.epochs):
        started = time.perf_counter()
        train.set_epoch(epoch)
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * rate_factor(recipe, epoch)
        network.train()
        for images, labels in train:
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                loss = functional.cross_entropy(network(images.contiguous(memory_format=layout)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        right = total = 0
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=half):
            for images, labels in test:
                right += (network(images.contiguous(memory_format=layout)).argmax(1) == labels).sum().item()
                total += len(labels)
        seconds.append(time.perf_counter() - started)
    return seconds, 100 * right / total


def one_round(ends: float) -> dict[str, dict[str, float]]:
    """Return the figures of each contender, run one after another; none where they take beyond the time `ends`."""
    rows = {}
    for name in CONTENDERS:
        command = [sys.executable, __file__, *sys.argv[1:], "--contender", name]
        environment = os.environ | (AS_IT_IS if name == "plain" else {})
        left = max(1.0, ends - time.monotonic())
        try:
            ended = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, timeout=left)
        except subprocess.TimeoutExpired:
            return {}
        rows[name] = json.loads(ended.stdout.splitlines()[-1])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, help="folder with CIFAR-10")
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--images", type=int, default=2000, help="of the training")
    parser.add_argument("--classes", type=int, default=2, help="the first of CIFAR-10's, each with 1,000 test images")
    parser.add_argument("--minutes", type=float, default=9.0, help="no round begins that would end later")
    parser.add_argument("--epochs", type=int, default=3, help="the first is left out of the median")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides for ours, such as recipe.compile=true")
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(contend(options.contender, options)))
        return
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    began, longest = time.monotonic(), 0.0
    ends = began + 60 * options.minutes
    for _ in range(options.rounds):
        started = time.monotonic()
        if started + longest > ends or not (rows := one_round(ends)):
            break
        longest = max(longest, time.monotonic() - started)
        for name, row in rows.items():
            found[name].append(row)
    if not found["plain"]:
        raise SystemExit(f"{options.minutes:g} minutes are over in the first round: take fewer --images")
    middle = {n: {k: statistics.median(r[k] for r in rows) for k in rows[0]} for n, rows in found.items()}
    ours = middle["paredown"]
    print(f"{len(found['plain'])} rounds")
    for name, values in middle.items():
        print(f"{name:10} {values['seconds']:7.2f} s/epoch  {values['memory']:7.0f} MiB  top-1 {values['top1']:.2f} %")
    ratios = {
        "speed against plain": middle["plain"]["seconds"] / ours["seconds"],
        "time against tuned": ours["seconds"] / middle["tuned"]["seconds"],
        "memory against tuned": ours["memory"] / middle["tuned"]["memory"],
    }
    for name, value in ratios.items():
        print(f"{name:22} {value:.3f}x")
    if options.json:
        options.json.write_text(json.dumps({"contenders": found, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
