"""Classify images with the network beside this file: python usage.py IMAGE [IMAGE ...]

Without an image it classifies a grey one, which checks the installation. It uses model.int8.onnx, else model.onnx
(which need onnxruntime), else model.pt2 (needs torch), else the folder torch/ (needs paredown). Images are read with
Pillow and numpy.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

HERE = Path(__file__).resolve().parent
# others of Pillow's formats start programs (EPS: Ghostscript)
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
Run = Callable[[Any], Any]


def load_onnx(path: Path) -> tuple[Run, dict[str, Any]]:
    """Load an ONNX file: a function from images (B, C, H, W) float32 to logits (B, classes), and its metadata."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    return lambda images: session.run(["logits"], {"images": images})[0], facts


def load_program(path: Path) -> tuple[Run, dict[str, Any]]:
    """Load a torch.export program; see `load_onnx`."""
    import torch

    kept = {"paredown.json": ""}
    module = torch.export.load(path, extra_files=kept).module()
    return lambda images: module(torch.from_numpy(images)).detach().numpy(), json.loads(kept["paredown.json"])


def load_torch(path: Path) -> tuple[Run, dict[str, Any]]:
    """Load a folder with architecture.json and weights.safetensors; see `load_onnx`."""
    import torch

    from paredown.export.torch_file import load_module

    module = load_module(path)
    facts = json.loads((path / "architecture.json").read_text())["facts"]
    return lambda images: module(torch.from_numpy(images)).detach().numpy(), facts


def load() -> tuple[Run, dict[str, Any]]:
    """Load the first of the files that exists in this folder."""
    loaders: dict[str, Callable[[Path], tuple[Run, dict[str, Any]]]]
    loaders = {"model.int8.onnx": load_onnx, "model.onnx": load_onnx, "model.pt2": load_program, "torch": load_torch}
    for name, loader in loaders.items():
        if (HERE / name).exists():
            return loader(HERE / name)
    sys.exit(f"no exported network in {HERE}")


def prepared(path: str | None, facts: dict[str, Any]) -> Any:
    """Read an image, grey without a path, as the network's input (C, H, W) float32: scaled and cut, divided by 255 and
    normalised by (x - mean) / std per channel, as in the evaluation."""
    channels, height, width = facts["input"]
    image = opened(path) if path else Image.new("RGB", (width, height), "grey")
    if image.mode[0] in "IF":
        sys.exit(f"{path} has more than 8 bits a channel (Pillow's mode {image.mode}): convert it to 8 bits")
    image = covering(image.convert("RGB"), *facts["scaled"])
    image = image.convert("L") if channels == 1 else image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = np.asarray(image.crop((left, top, left + width, top + height))).reshape(height, width, channels)
    deviation = np.float64(facts["std"])
    scale, shift = np.float32(1 / (255 * deviation)), np.float32(-np.float64(facts["mean"]) / deviation)
    return np.ascontiguousarray((pixels * scale + shift).transpose(2, 0, 1))


def opened(path: str) -> Any:
    """Open an image file of one of FORMATS, as far as the installed Pillow reads them."""
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]
    try:
        return Image.open(path, formats=known)
    except UnidentifiedImageError:
        sys.exit(f"{path!r} is damaged, or of none of the formats {', '.join(known)}")


def covering(image: Any, height: int, width: int) -> Any:
    """Scale an image until it just covers `height` and `width`, and cut these from its centre."""
    if image.size == (width, height):
        return image
    scale = max(width / image.width, height / image.height)
    wide, tall = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    left, top = (wide - width) // 2, (tall - height) // 2
    scaled = image.resize((wide, tall), Image.Resampling.BILINEAR)
    return scaled.crop((left, top, left + width, top + height))


def main() -> None:
    """Print the three most probable classes of each image."""
    run, facts = load()
    names: list[str | None] = [*sys.argv[1:]] or [None]
    logits = run(np.stack([prepared(name, facts) for name in names]))
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    for name, row in zip(names, probabilities, strict=True):
        best = row.argsort()[::-1][:3]
        print(name or "a grey image", *(f"{facts['classes'][index]} {row[index]:.1%}" for index in best), sep="  ")


if __name__ == "__main__":
    main()
