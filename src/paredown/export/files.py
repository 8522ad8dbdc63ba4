"""The formats of an exported network: how each is written, and what is needed to run and count it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from paredown.errors import UserError
from paredown.plan import Network

FORMATS = {"torch": "torch", "program": "model.pt2", "onnx": "model.onnx"}  # where each lies in the export's folder
EXAMPLE = 2  # images of the batch that is traced: one would be taken for a constant
Facts = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """What is written: the trained `network`, the `module` it is deployed as, on the CPU, the `choices` that
    `execution.build` makes this from, and the `facts` a user of the file needs (classes, mean, std, input ...)."""

    network: Network
    module: nn.Module
    choices: Mapping[str, Any]
    facts: Facts

    def example(self) -> Tensor:
        """Images to trace with."""
        return torch.zeros(EXAMPLE, *self.network.input_shape)


@dataclass(frozen=True)
class Loaded:
    """A file that was read: `run` maps images (B, C, H, W) float32 to logits (B, classes); `macs` are the multiply-adds
    one image costs, zeros too, `active_macs` those by weights that are not zero, `weight_bytes` what tensors take."""

    run: Callable[[Tensor], Tensor]
    macs: int
    active_macs: int
    weight_bytes: int
    facts: Facts


class Format(Protocol):
    """One of the modules below."""

    def write(self, source: Source, path: Path, opset: int | None = None) -> None:
        """Write `source` to `path`. UserError where the format cannot hold it."""
        ...

    def load(self, path: Path) -> Loaded:
        """Read what `write` wrote. UserError for a file that is damaged or of another kind."""
        ...


def format_of(name: str) -> Format:
    """The module that writes and reads the format `name`, a key of FORMATS."""
    module: Any = import_module(f"paredown.export.{name}_file")
    return module


def size(path: Path) -> int:
    """Bytes on disk of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def damaged(path: Path, error: Exception) -> UserError:
    """What to say of a file that cannot be read."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(f"{path} holds no readable network: {reason[:160]}")
