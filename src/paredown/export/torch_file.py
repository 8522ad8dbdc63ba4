"""The format `torch`: a folder of architecture.json and weights.safetensors with the trained network, its zeros
removed, and the backends it runs with."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.core.bounds import bounded
from paredown.core.errors import UserError
from paredown.core.files import read_plain, reading, write_tensors, write_text
from paredown.core.modes import hooked
from paredown.core.network import Network
from paredown.cost.executed import executed
from paredown.export.files import EXPORT_AGAIN, Loaded, Source
from paredown.runtime.blocked_layers import SparseConv2d
from paredown.runtime.optimise import build
from paredown.runtime.pixel_layers import PixelConv2d
from paredown.store.packing import pack, unpack


@dataclass(frozen=True)
class _Exported:
    """What an export's architecture.json holds beyond a state's."""

    packed: dict[str, list[int]]
    execution: dict[str, Any]
    facts: dict[str, Any]


def write(source: Source, path: Path, opset: int | None = None) -> None:
    """Write the trained weights and the choices with which `runtime.optimise.build` makes the deployed module."""
    network = source.network
    weights, shapes = pack({name: value.detach().cpu() for name, value in network.module.state_dict().items()})
    data = {
        "format": blueprint.FORMAT,
        "architecture": network.architecture,
        "blueprint": network.blueprint,
        "input_shape": network.input_shape,
        "packed": shapes,
        "execution": source.choices,
        "facts": source.facts,
    }
    path.mkdir(exist_ok=True)
    write_tensors(path / blueprint.WEIGHTS, weights)
    write_text(path / blueprint.ARCHITECTURE, json.dumps(data, indent=1))


def load(path: Path) -> Loaded:
    """Load an exported folder; see `files.Format`."""
    data, weights = _read(path)
    module = _module(path, data, weights)
    with reading(path, EXPORT_AGAIN):
        macs, active = _macs(module, torch.zeros(1, *data["input_shape"]))
    return Loaded(module, macs, active, sum(tensor.nbytes for tensor in weights.values()), data["facts"])


def load_module(path: Path | str) -> nn.Module:
    """Load the network in the exported folder `path` with its chosen backends, in eval mode: a module from images
    (B, C, H, W) to logits. Raise UserError for a folder without one."""
    return _module(Path(path), *_read(Path(path)))


def _macs(module: nn.Module, image: Tensor) -> tuple[int, int]:
    """Count as `executed` does, plus the native kernel, whose work torch does not see: every weight is used once per
    output position."""
    native = [layer for layer in module.modules() if isinstance(layer, SparseConv2d | PixelConv2d)]
    counts: list[int] = []

    def hook(layer: Any, _: Any, output: Tensor) -> None:
        counts.append(len(layer.weights) * math.prod(output.shape[2:4]))

    with hooked(layer.register_forward_hook(hook) for layer in native):
        macs, active = executed(module, image)
    return macs + sum(counts), active + sum(counts)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    data, weights = blueprint.read_files(path, EXPORT_AGAIN)
    if "execution" not in data:
        raise UserError(f"{path} holds a trained state, not an export: blueprint.load reads it")
    read_plain(path / blueprint.ARCHITECTURE, _Exported, EXPORT_AGAIN)
    return data, weights


def _module(path: Path, data: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    with reading(path, EXPORT_AGAIN), bounded(weights):
        module = blueprint.build(data["architecture"], data["blueprint"])
        blueprint.load_weights(module, unpack(weights, data["packed"], str(path)), str(path))
        network = Network(module.eval(), data["architecture"], tuple(data["input_shape"]), data["blueprint"])
        return build(network, data["execution"]).eval()
