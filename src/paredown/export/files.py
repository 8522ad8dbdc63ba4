"""The formats of an exported network: the interface to write, read, run and count each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from paredown.core.errors import UserError, nearest
from paredown.core.network import Network

EXPORT_AGAIN = "export the run again"
FORMATS = {"torch": "torch", "program": "model.pt2", "onnx": "model.onnx"}  # paths in the export's folder
QUANTIZED = {"int8": "model.int8.onnx"}  # ONNX files that round what was trained
FILES = FORMATS | QUANTIZED
EXAMPLE = 2  # batch size for tracing: torch.export specialises on a batch of 1
Facts = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A network to export: the trained `network`, its deployed `module` on the CPU, the `choices` from which
    `runtime.optimise.build` makes that module, and the metadata `facts` for users (classes, mean, std, input ...)."""

    network: Network
    module: nn.Module
    choices: Mapping[str, Any]
    facts: Facts

    def example(self) -> Tensor:
        """Return images to trace with."""
        return torch.zeros(EXAMPLE, *self.network.input_shape)


@dataclass(frozen=True)
class Loaded:
    """A loaded file: `run` maps images (B, C, H, W) float32 to logits (B, classes); `macs` are all multiply-adds for
    one image, `active_macs` those by non-zero weights, `weight_bytes` the size of the tensors."""

    run: Callable[[Tensor], Tensor]
    macs: int
    active_macs: int
    weight_bytes: int
    facts: Facts


class Format(Protocol):
    """Interface of the modules `torch_file`, `program_file` and `onnx_file`."""

    def write(self, source: Source, path: Path, opset: int | None = None) -> None:
        """Write `source` to `path`. Raise UserError if the format cannot represent it."""
        ...

    def load(self, path: Path) -> Loaded:
        """Read a file written by `write`. Raise UserError for a damaged file or one of another kind."""
        ...


def format_of(name: str) -> Format:
    """Return the module that writes and reads the format `name`. Raise UserError for one that is no key of FORMATS."""
    if name not in FORMATS:
        raise UserError(f"no format {name!r}: {nearest(name, FORMATS)}")
    module: Any = import_module(f"paredown.export.{name}_file")
    return module


def reader_of(name: str) -> Format:
    """Return the module that reads the file `name`, a key of FILES."""
    return format_of("onnx" if name in QUANTIZED else name)


def size(path: Path) -> int:
    """Return the bytes on disk of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
