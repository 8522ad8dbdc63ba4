"""Evaluation of an exported file in a separate process: python -m paredown.export.check ORDER.json"""

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

from paredown.core.errors import UserError
from paredown.core.requests import MISTAKE
from paredown.core.trust import trust
from paredown.export.files import reader_of

BATCH = 128  # images at once


@dataclass(frozen=True)
class Found:
    """Outputs and cost of an exported file: `logits` (N, classes) for the images of a split in their order,
    multiply-adds and bytes (see `files.Loaded`)."""

    logits: Tensor
    macs: int
    active_macs: int
    weight_bytes: int


@dataclass(frozen=True)
class Images:
    """The images of one `split` of a `dataset`, whose settings are those of conf/dataset/; it may be of what the user
    trusts (`core.trust`)."""

    dataset: Mapping[str, Any]
    split: str
    trust: tuple[str, ...] = ()


def in_fresh_process(name: str, path: Path, images: Images) -> Found:
    """Run `evaluate_file` in a new interpreter, so that nothing but the file can contribute to the result. Raise the
    UserError of that process if it cannot read the file."""
    with TemporaryDirectory() as place:
        order, logits = Path(place) / "order.json", Path(place) / "logits.safetensors"
        values = {"format": name, "path": str(path), "images": asdict(images), "logits": str(logits)}
        order.write_text(json.dumps(values | {"threads": torch.get_num_threads()}))
        command = [sys.executable, "-m", "paredown.export.check", str(order)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or [f"exit code {ended.returncode}"])[-1]
            if ended.returncode == MISTAKE:
                raise UserError(last)
            raise RuntimeError(f"evaluating {path} in a separate process failed: {last}")
        return Found(load_file(logits)["logits"], **json.loads(ended.stdout.splitlines()[-1]))


def evaluate_file(name: str, path: Path, images: Images) -> Found:
    """Load the file `path`, `name` of `files.FILES`, and run it on `images`."""
    loaded = reader_of(name).load(path)
    with torch.inference_mode():
        parts = [loaded.run(batch) for batch, _ in batches(images)]
    return Found(torch.cat(parts), loaded.macs, loaded.active_macs, loaded.weight_bytes)


def batches(images: Images) -> Any:
    """Return the loader of `images`, on the CPU."""
    from paredown.experiment.prepare import open_data

    return open_data(images.dataset).eval_loader(images.split, BATCH, "cpu")  # type: ignore[arg-type]


def main() -> int:
    """Serve `in_fresh_process` in the child: write logits to a file and counts to stdout."""
    order = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(order["threads"])
    images = Images(**order["images"])
    trust(images.trust)
    try:
        found = evaluate_file(order["format"], Path(order["path"]), images)
    except UserError as error:
        print(error, file=sys.stderr)
        return MISTAKE
    save_file({"logits": found.logits.contiguous()}, order["logits"])
    counts = {name: getattr(found, name) for name in ("macs", "active_macs", "weight_bytes")}
    print(json.dumps(counts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
