"""Lightning checkpoints without pickle: nested plain data and tensors in one safetensors file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO
from safetensors import safe_open
from torch import Tensor

from paredown.core.errors import UserError
from paredown.core.files import reading, write_tensors

# entries of the metadata: everything but the tensors, and a SHA-256 of all
STRUCTURE, DIGEST = "structure", "sha256"
REMEDY = "delete it: that fit starts again"


class SafeCheckpointIO(CheckpointIO):
    """Saves and loads Lightning's checkpoint dictionaries as safetensors with a JSON header, written atomically."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Write `checkpoint` (dicts, lists, numbers, strings, tensors); TypeError for anything else."""
        tensors: dict[str, Tensor] = {}
        structure = json.dumps(_flatten(checkpoint, tensors))
        write_tensors(Path(path), tensors, {STRUCTURE: structure, DIGEST: _digest(structure, tensors)})

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the dictionary written by `save_checkpoint`, its tensors on the CPU. Raise UserError for damage."""
        with reading(path, REMEDY), safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no iterator)
            metadata = file.metadata() or {}
            structure = metadata[STRUCTURE]
            # checkpoints of older versions have none
            if metadata.get(DIGEST, made := _digest(structure, tensors)) != made:
                raise UserError(f"{path} is not as it was written ({REMEDY})")
            found = _restore(json.loads(structure), tensors)
            if not isinstance(found, dict):
                raise UserError(f"{path} holds no checkpoint ({REMEDY})")
            return found

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete the file."""
        Path(path).unlink(missing_ok=True)


def content(value: Any) -> bytes:
    """Return the bytes of `value`, which a checkpoint can hold: equal for equal values."""
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_flatten(value, tensors)).encode()
    return structure + b"".join(part.tobytes() for part in _buffers(tensors))


def _digest(structure: str, tensors: Mapping[str, Tensor]) -> str:
    """Hash a checkpoint: names, types and shapes are in the file's header, whose damage moves the bytes."""
    found = hashlib.sha256(structure.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(*_buffers({name: tensor}))
    return found.hexdigest()


def _buffers(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    for tensor in tensors.values():
        yield tensor.reshape(-1).view(torch.uint8).numpy().data


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
