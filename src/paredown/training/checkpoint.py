"""Lightning checkpoints without pickle: nested plain data and tensors in one safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

STRUCTURE = "structure"  # the metadata entry that holds everything but the tensors


class SafeCheckpointIO(CheckpointIO):
    """Saves and loads Lightning's checkpoint dictionaries as safetensors with a JSON header, written atomically."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` (dicts, lists, numbers, strings, tensors); TypeError for anything else."""
        tensors: dict[str, Tensor] = {}
        structure = json.dumps(_flatten(checkpoint, tensors))
        temporary = Path(f"{path}.{os.getpid()}")
        save_file(tensors, temporary, metadata={STRUCTURE: structure})
        temporary.replace(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """The dictionary written by `save_checkpoint`, its tensors on the CPU."""
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
            return _restore(json.loads(file.metadata()[STRUCTURE]), tensors)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete the file."""
        Path(path).unlink(missing_ok=True)


def _flatten(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # a clone in its plain layout: safetensors refuses shared and strided storage
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, Mapping):  # as pairs: JSON would turn the optimiser's integer keys into strings
        return {"pairs": [[key, _flatten(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [_flatten(item, tensors) for item in value]}
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a checkpoint holds plain data and tensors, got {value!r} of {type(value).__name__}")


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    (kind, content), *_ = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "pairs":
        return {key: _restore(item, tensors) for key, item in content}
    items = [_restore(item, tensors) for item in content]
    return tuple(items) if kind == "tuple" else items
