"""One scoring of all weights by each saliency, in time and memory, against a dense training step.

    python benchmarks/scoring.py --model resnet32 --images 100
    python benchmarks/scoring.py --model vgg19 --images 20 --rounds 1

Random images of 32 x 32 pixels in ten classes. Each saliency runs in a process of its own: its peak is how much more
memory that process has held, at most, than with the network and the images alone. Seconds are of the processor, so that
other jobs on the machine count less; a median over the rounds. SynFlow's is one of its 100 rounds. OBD and MLPrune
score all training images once: for them it is the seconds an image that count.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable

import torch
from steps import parse, stepper
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.surgery.curvature import mlprune, obd
from paredown.surgery.saliency import grasp, snip, synflow

MODELS = {
    "resnet32": {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 32, "width": 2},
    "vgg19": {"_target_": "paredown.models.cifar.vgg.vgg19_bn"},
}
SHAPE = (3, 32, 32)
DENSE = "a dense step"
Batches = list[tuple[Tensor, Tensor]]
SALIENCIES: dict[str, Callable[[nn.Module, Batches], object]] = {
    "snip": lambda model, batches: snip(model.train(), batches),
    "grasp": lambda model, batches: grasp(model.train(), batches, temperature=200),
    "synflow": lambda model, batches: synflow(model, SHAPE),
    "obd": lambda model, batches: obd(model.eval(), batches),
    "mlprune": lambda model, batches: mlprune(model.eval(), batches),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=[*MODELS], default="resnet32")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--chunk", type=int, default=0, help="images a batch (0: all; grasp: half of them)")
    parser.add_argument("--saliencies", nargs="+", choices=[*SALIENCIES], default=[*SALIENCIES])
    options = parse(parser)
    dense = measured(DENSE, options)[0]
    print(f"{DENSE} of {options.model}, {options.batch} images: {dense:.2f} s", flush=True)
    for name in options.saliencies:
        seconds, megabytes = measured(name, options)
        images = 1 if name == "synflow" else options.images
        print(
            f"{name}, {images} images: {seconds:.2f} s, {seconds / dense:.2f} dense steps, {megabytes:,.0f} MB",
            flush=True,
        )


def measured(name: str, options: argparse.Namespace) -> tuple[float, float]:
    """Return the median seconds of `name` and its peak of memory in MB, from a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (name, options))


def measure(name: str, options: argparse.Namespace) -> tuple[float, float]:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = blueprint.create(MODELS[options.model], SHAPE).module
    if name == DENSE:
        step = stepper(model, options)
        step()
        return timed(step, options.rounds)
    images, labels = torch.randn(options.images, *SHAPE), torch.arange(options.images) % 10
    chunk = options.chunk or (options.images // 2 if name == "grasp" else options.images)
    batches = list(zip(images.split(chunk), labels.split(chunk), strict=True))
    return timed(lambda: SALIENCIES[name](model, batches), options.rounds)


def timed(call: Callable[[], object], rounds: int) -> tuple[float, float]:
    before, seconds = peak(), []
    for _ in range(rounds):
        started = time.process_time()
        call()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds), peak() - before


def peak() -> float:
    """Return the most memory that this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
