"""What an exported file computes, found in a process of its own: python -m paredown.export.check ORDER.json"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paredown.errors import UserError
from paredown.export.files import format_of

BATCH = 128  # images at once
MISTAKE = 2


@dataclass(frozen=True)
class Found:
    """`logits` (N, classes) of a file for the images of a split, in their order, and what was counted from the file."""

    logits: Tensor
    macs: int
    active_macs: int
    weight_bytes: int


@dataclass(frozen=True)
class Images:
    """Which images: a data set as in conf/dataset/, opened, and one of its splits."""

    dataset: Mapping[str, Any]
    split: str


def in_fresh_process(name: str, path: Path, images: Images) -> Found:
    """`examine` in a new interpreter, which knows of the network no more than the file says. UserError in its words
    where it cannot read the file."""
    with TemporaryDirectory() as place:
        order, logits = Path(place) / "order.json", Path(place) / "logits.safetensors"
        told = {"format": name, "path": str(path), "images": asdict(images), "logits": str(logits)}
        order.write_text(json.dumps(told | {"threads": torch.get_num_threads()}))
        command = [sys.executable, "-m", "paredown.export.check", str(order)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
            if ended.returncode == MISTAKE:
                raise UserError(last)
            raise RuntimeError(f"reading {path} in a process of its own failed: {last}")
        return Found(load_file(logits)["logits"], **json.loads(ended.stdout.splitlines()[-1]))


def examine(name: str, path: Path, images: Images) -> Found:
    """Load the file `path` of format `name` and run it over `images`."""
    loaded = format_of(name).load(path)
    with torch.inference_mode():
        parts = [loaded.run(batch) for batch, _ in batches(images)]
    return Found(torch.cat(parts), loaded.macs, loaded.active_macs, loaded.weight_bytes)


def batches(images: Images) -> Any:
    """The loader of `images`, on the CPU."""
    from paredown.experiment import open_data

    return open_data(images.dataset).eval_loader(images.split, BATCH, "cpu")  # type: ignore[arg-type]


def main() -> int:
    """The child's side of `in_fresh_process`: logits go into a file, counts to stdout."""
    order = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(order["threads"])
    try:
        found = examine(order["format"], Path(order["path"]), Images(**order["images"]))
    except UserError as error:
        print(error, file=sys.stderr)
        return MISTAKE
    save_file({"logits": found.logits.contiguous()}, order["logits"])
    counts = {name: getattr(found, name) for name in ("macs", "active_macs", "weight_bytes")}
    print(json.dumps(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
