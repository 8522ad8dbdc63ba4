"""Classify images with the network beside this file: python usage.py IMAGE [IMAGE ...]

Without an image it classifies a grey one, to see that all is there. It takes model.onnx (needs onnxruntime), else
model.pt2 (needs torch), else the folder torch/ (needs paredown); with Pillow and numpy for the images.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
Run = Callable[[Any], Any]


def load_onnx(path: Path) -> tuple[Run, dict[str, Any]]:
    """From images (B, C, H, W) float32 to logits (B, classes), and what the file says of itself."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    return lambda images: session.run(["logits"], {"images": images})[0], facts


def load_program(path: Path) -> tuple[Run, dict[str, Any]]:
    """The same from a torch.export program."""
    import torch

    kept = {"paredown.json": ""}
    module = torch.export.load(path, extra_files=kept).module()
    return lambda images: module(torch.from_numpy(images)).detach().numpy(), json.loads(kept["paredown.json"])


def load_torch(path: Path) -> tuple[Run, dict[str, Any]]:
    """The same from a folder with architecture.json and weights.safetensors."""
    import torch

    from paredown.export.torch_file import load_module

    module = load_module(path)
    facts = json.loads((path / "architecture.json").read_text())["facts"]
    return lambda images: module(torch.from_numpy(images)).detach().numpy(), facts


def load() -> tuple[Run, dict[str, Any]]:
    """The first of the three that lies here."""
    for name, loader in (("model.onnx", load_onnx), ("model.pt2", load_program), ("torch", load_torch)):
        if (HERE / name).exists():
            return loader(HERE / name)
    sys.exit(f"no exported network in {HERE}")


def prepared(path: str | None, facts: dict[str, Any]) -> Any:
    """An image as the network takes it, (C, H, W) float32: its size, [0, 1], then (x - mean) / std per channel."""
    channels, height, width = facts["input"]
    image = Image.open(path) if path else Image.new("RGB", (width, height), "grey")
    image = image.convert("L" if channels == 1 else "RGB").resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.float32).reshape(height, width, channels) / 255
    normalised = (pixels - np.float32(facts["mean"])) / np.float32(facts["std"])
    return np.ascontiguousarray(normalised.transpose(2, 0, 1), np.float32)


def main() -> None:
    """Print the three likeliest classes of each image."""
    run, facts = load()
    names: list[str | None] = [*sys.argv[1:]] or [None]
    logits = run(np.stack([prepared(name, facts) for name in names]))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    for name, row in zip(names, shares, strict=True):
        best = row.argsort()[::-1][:3]
        print(name or "a grey image", *(f"{facts['classes'][index]} {row[index]:.1%}" for index in best), sep="  ")


if __name__ == "__main__":
    main()
