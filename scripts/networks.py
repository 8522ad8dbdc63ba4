"""Writes docs/networks.md: which methods run on which networks of torchvision and timm, by running each.

python scripts/networks.py [output=FOLDER] [NETWORK ...]      an hour on two cores; finished cells are kept in FOLDER

Every cell is a whole experiment by the usual engine: random weights, one epoch of two steps a stage, images of 32 x 32
(of 64 x 64 where a network needs them). It is counted by two counters, deployed and proven equal, and exported to ONNX,
which onnxruntime must compute alike. To run a cell again, delete it from FOLDER/networks/NETWORK.json.
"""

from __future__ import annotations

import copy
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from paredown.core import blueprint
from paredown.core.errors import UserError, named_reason, nearest
from paredown.core.requests import exit_codes
from paredown.export.files import Source, format_of
from paredown.run import walk
from paredown.runtime.optimise import build

ROOT = Path(__file__).parents[1]
DOC = ROOT / "docs" / "networks.md"
CLASSES, TRAIN, TEST = 2, 10, 4  # images of each class
TOLERANCE = 1e-4  # of the largest logit, in fp32
ROUNDINGS = 10  # or as many times as far from float64 as torch's fp32: deep random networks amplify what is rounded
NETWORKS = {
    "torchvision": ("resnet34", "densenet121", "regnet_y_400mf", "convnext_tiny", "vit_b_16", "mobilenet_v3_small"),
    "timm": ("tf_efficientnet_lite0", "mobilevit_xxs", "ghostnet_100", "deit_tiny_patch16_224", "mixer_s32_224"),
}
# at the usual 0.1, the first steps of these untrained factors are so large that the penalty on them diverges
GENTLE = {("tf_efficientnet_lite0", "svd_training"), ("ghostnet_100", "svd_training")}
RATE = 0.001
SIDES = {"mobilevit_xxs": 64, "deit_tiny_patch16_224": 64, "mixer_s32_224": 64}
METHODS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "magnitude": ("sparse", ("sparsity=0.5",)),
    "ssc": ("sparse kernels", ("sparsity=0.5",)),
    "svd_training": ("low rank, trained", ("sparsity=0.4",)),
    "zhang": ("low rank, fitted", ("speed_up=1.3", "method.images=16")),
    "lr_s2": ("low rank, whole network", ("sparsity=0.2",)),
    "alds": ("low rank, in groups", ("sparsity=0.2",)),
    "l1_filters": ("fewer channels", ("speed_up=1.3",)),
}
HEAD = """# Networks of other libraries

What each method did on networks of torchvision and timm, made by `python scripts/networks.py`: random weights, two
steps of training a stage, images of 32 x 32 pixels (64 x 64: mobilevit_xxs, deit_tiny, mixer_s32). Each cell is the
speed-up in multiply-adds, and the share of weights that went, of a network that was counted by both counters, deployed,
proven equal in fp64, and exported to ONNX, where onnxruntime computed the same: to 1e-4 of the largest logit or, where
random weights amplify rounding more than that, as near to float64 as torch's fp32 (at most ten times as far). The
learning rate is the usual 0.1; for svd_training on tf_efficientnet_lite0 and ghostnet_100, where two steps of that
diverge, 0.001. A number in brackets is the one line with which the method refused. How to bring in a network:
[your network](tutorials/your_network.md).
"""


def images(root: Path, side: int) -> None:
    """Write a folder of noise, in class folders of train/ and test/."""
    draws = np.random.default_rng(0)
    for split, number in (("train", TRAIN), ("test", TEST)):
        for name in range(CLASSES):
            folder = root / split / f"class{name}"
            folder.mkdir(parents=True)
            for index in range(number):
                Image.fromarray(draws.integers(0, 256, (side, side, 3), np.uint8)).save(folder / f"{index}.png")


def words(library: str, network: str, method: str, place: Path) -> list[str]:
    """Return the overrides of one cell."""
    data = ["dataset=folder", f"dataset.root={place / 'images'}", "dataset.validation=0", "dataset.augment.crop=0"]
    short = [
        "recipe.epochs=1",
        "recipe.batch_size=10",
        "recipe.precision=32",
        "latency.seconds=0.01",
        "latency.batch=2",
    ]
    rest = ["tracking=off", "trainer.progress=false", "trainer.accelerator=cpu", f"output={place / 'out'}"]
    rate = [f"recipe.learning_rate={RATE}"] if (network, method) in GENTLE else []
    model = [f"method={method}", f"model={library}", f"model.name={network}"]
    return [*model, *data, *short, *rest, *rate, *METHODS[method][1]]


def cell(library: str, network: str, method: str, place: Path) -> dict[str, Any]:
    """Run one cell. Return its `speed_up`, `macs` and `sparsity`, or the line that says why not (`refused`), or the
    `failed` one."""
    try:
        result = walk.run(words(library, network, method, place))
        exported(result.state, place / "model.onnx")
    except UserError as error:
        return {"refused": str(error).replace(str(place), "")}
    except Exception as error:
        logging.getLogger("paredown").exception("%s on %s", method, network)
        return {"failed": named_reason(error)}
    return {name: result.metrics[f"cost/{name}"] for name in ("speed_up", "sparsity", "macs", "dense_macs")}


def exported(state: Path, path: Path) -> None:
    """Export the network of `state` to ONNX. Raise RuntimeError where onnxruntime computes something else."""
    network = blueprint.read(state)
    source = Source(network, build(network, {}), {}, {"input": list(network.input_shape)})
    onnx = format_of("onnx")
    onnx.write(source, path)
    noise = torch.randn(3, *network.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = network.module(noise), onnx.load(path).run(noise)
        exact = copy.deepcopy(network.module).double()(noise.double())
    difference, largest = float((ours - theirs).abs().max()), float(ours.abs().max())
    rounded, error = (float((logits - exact).abs().max()) for logits in (ours, theirs))
    if not (difference <= TOLERANCE * largest or error <= ROUNDINGS * rounded):
        raise RuntimeError(
            f"the ONNX file differs by {difference / largest:.1e}, torch's fp32 by {rounded / largest:.1e}"
        )


def row(library: str, network: str, kept: Path) -> dict[str, dict[str, Any]]:
    """Return the cells of one network, those that `kept` has not by running them."""
    path = kept / f"{network}.json"
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
    missing = [method for method in METHODS if method not in found]
    with TemporaryDirectory() as temporary:
        place = Path(temporary)
        images(place / "images", SIDES.get(network, 32))
        for method in missing:
            found[method] = cell(library, network, method, place)
            print(network, method, found[method], flush=True)
            path.write_text(json.dumps(found, indent=1))
    return found


def page(rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Yield the lines of the document."""
    notes: dict[str, str] = {}
    yield HEAD
    yield "| network | " + " | ".join(METHODS) + " |"
    yield "|---" * (len(METHODS) + 1) + "|"
    yield "| *family* | " + " | ".join(family for family, _ in METHODS.values()) + " |"
    for name, found in rows.items():
        cells = []
        for method in METHODS:
            said = found[method].get("refused") or found[method].get("failed")
            if said:
                letter = notes.setdefault(f"{method}: {said}", f"{len(notes) + 1}")
                cells.append(f"[{letter}]")
            else:
                speed_up, sparsity = found[method]["speed_up"], found[method]["sparsity"]
                cells.append(f"{speed_up:.2f}x, {sparsity:.0%}")
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""
    yield from (f"* [{letter}] {text}" for text, letter in notes.items())


def main() -> None:
    """Write the document."""
    logging.basicConfig(level=logging.WARNING)
    kept = next((Path(word.partition("=")[2]) for word in sys.argv[1:] if word.startswith("output=")), Path("outputs"))
    kept = (kept / "networks").resolve()
    kept.mkdir(parents=True, exist_ok=True)
    asked = [word for word in sys.argv[1:] if "=" not in word]
    known = [name for names in NETWORKS.values() for name in names]
    if unknown := [name for name in asked if name not in known]:
        raise UserError(f"no network {unknown[0]!r}: {nearest(unknown[0], known)}")
    libraries = {name: library for library, names in NETWORKS.items() for name in names}
    rows = {name: row(libraries[name], name, kept) for name in asked or known}
    if not asked:
        DOC.write_text("\n".join(page(rows)) + "\n")


if __name__ == "__main__":
    with exit_codes():
        main()
