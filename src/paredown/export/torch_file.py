"""A folder of architecture.json and weights.safetensors: the deployed weights, and how to build what runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown import blueprint, execution
from paredown.cost.executed import executed
from paredown.errors import UserError
from paredown.export.files import Loaded, Source, damaged, tensor_bytes
from paredown.layers.sparse import SparseLinear
from paredown.plan import Network


def write(source: Source, path: Path, opset: int | None = None) -> None:
    """The weights as they run, packed or folded, not as they were trained; with the choices that say how they run."""
    network = source.network
    data = {
        "format": blueprint.FORMAT,
        "architecture": network.architecture,
        "blueprint": network.blueprint,
        "input_shape": network.input_shape,
        "execution": source.choices,
        "facts": source.facts,
    }
    path.mkdir(exist_ok=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in source.module.state_dict().items()}
    save_file(weights, path / blueprint.WEIGHTS)
    blueprint.write_text(path / blueprint.ARCHITECTURE, json.dumps(data, indent=1))


def load(path: Path) -> Loaded:
    """See `files.Format`."""
    data = _data(path)
    module = load_module(path)
    image = torch.zeros(1, *data["input_shape"])
    macs = executed(module, module.parameters(), image)
    return Loaded(module, *macs, tensor_bytes(module.state_dict()), data["facts"])


def load_module(path: Path | str) -> nn.Module:
    """The network in the exported folder `path`, in eval mode, as it was chosen to run: images (B, C, H, W) to logits.
    UserError for a folder that holds none."""
    path = Path(path)
    data = _data(path)
    try:
        weights = load_file(path / blueprint.WEIGHTS)
        module = blueprint.build(data["architecture"], data["blueprint"])
        network = Network(module.eval(), data["architecture"], tuple(data["input_shape"]), data["blueprint"])
        deployed = execution.build(network, data["execution"])
    except (OSError, KeyError, SafetensorError) as error:
        raise damaged(path, error) from error
    _make_room(deployed, weights)
    blueprint.load_weights(deployed, weights, str(path))
    return deployed.eval()


def _data(path: Path) -> dict[str, Any]:
    try:
        data: dict[str, Any] = json.loads((path / blueprint.ARCHITECTURE).read_text())
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    blueprint.check_format(data, path)
    if "execution" not in data:
        raise UserError(f"{path} holds a trained state, not an export: blueprint.load reads it, export.py exports it")
    return data


def _make_room(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """A sparse matrix is as long as its weights are many, which no blueprint tells."""
    for name, layer in module.named_modules():
        if isinstance(layer, SparseLinear):
            for own in ("rows", "columns", "values"):
                found = weights.get(f"{name}.{own}" if name else own)
                if found is not None:
                    setattr(layer, own, nn.Parameter(found) if own == "values" else found)
