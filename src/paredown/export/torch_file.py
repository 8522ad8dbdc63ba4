"""A folder of architecture.json and weights.safetensors: the network as trained, zeros left out, and how it runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown import blueprint, execution
from paredown.cost.executed import executed
from paredown.errors import UserError
from paredown.execution.blocked import SparseConv2d
from paredown.export.files import Loaded, Source, damaged
from paredown.export.packing import pack, unpack
from paredown.plan import Network


def write(source: Source, path: Path, opset: int | None = None) -> None:
    """The weights as they were trained, from which `execution.build` makes what runs: its choices lie beside them."""
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
    save_file(weights, path / blueprint.WEIGHTS)
    blueprint.write_text(path / blueprint.ARCHITECTURE, json.dumps(data, indent=1))


def load(path: Path) -> Loaded:
    """See `files.Format`."""
    data, weights = _read(path)
    module = _module(path, data, weights)
    macs, active = _macs(module, torch.zeros(1, *data["input_shape"]))
    return Loaded(module, macs, active, sum(tensor.nbytes for tensor in weights.values()), data["facts"])


def load_module(path: Path | str) -> nn.Module:
    """The network in the exported folder `path`, in eval mode, in the forms that were chosen for it: images (B, C, H,
    W) to logits. UserError for a folder that holds none."""
    return _module(Path(path), *_read(Path(path)))


def _macs(module: nn.Module, image: Tensor) -> tuple[int, int]:
    """As `executed`, and the native kernel's, which torch sees nothing of: each of its weights meets every position."""
    native = [layer for layer in module.modules() if isinstance(layer, SparseConv2d)]
    counts: list[int] = []

    def hook(layer: Any, _: Any, output: Tensor) -> None:
        counts.append(len(layer.weights) * math.prod(output.shape[2:4]))

    handles = [layer.register_forward_hook(hook) for layer in native]
    macs, active = executed(module, image)
    for handle in handles:
        handle.remove()
    return macs + sum(counts), active + sum(counts)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        data: dict[str, Any] = json.loads((path / blueprint.ARCHITECTURE).read_text())
        blueprint.check_format(data, path)
        if "execution" not in data:
            raise UserError(f"{path} holds a trained state, not an export: blueprint.load reads it")
        return data, load_file(path / blueprint.WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise damaged(path, error) from error


def _module(path: Path, data: dict[str, Any], weights: dict[str, Tensor]) -> nn.Module:
    try:
        module = blueprint.build(data["architecture"], data["blueprint"])
        shapes, shape, choices = data["packed"], tuple(data["input_shape"]), data["execution"]
    except KeyError as error:
        raise damaged(path, error) from error
    blueprint.load_weights(module, unpack(weights, shapes, str(path)), str(path))
    return execution.build(Network(module.eval(), data["architecture"], shape, data["blueprint"]), choices).eval()
