"""Weights a user brings: safetensors, or a torch state dict read without running any pickled code."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from paredown.blueprint import load_weights
from paredown.errors import UserError

NESTED_UNDER = ("state_dict", "model")
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel and torch.compile
BATCH_COUNTER = ".num_batches_tracked"


def load_pretrained(module: nn.Module, path: Path | str) -> None:
    """Load all weights of `module` from `path`: safetensors, or a torch file that is a state dict or has one
    under "state_dict" or "model". Raises UserError for a file that is missing, unreadable or doesn't fit."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"model.weights={path}: no such file (a .safetensors file or a torch state dict is needed)")
    weights = _unwrapped(_read(path), path)
    own = module.state_dict()
    # Files written before PyTorch 0.4.1, torchvision's oldest among them, lack this counter.
    weights |= {name: own[name] for name in own if name.endswith(BATCH_COUNTER) and name not in weights}
    _refuse_other_classes(module, weights, path)
    load_weights(module, weights, f"model.weights={path}")


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        what = f"pickled code ({culprit[1]})" if culprit else "something else"
        raise UserError(
            f"model.weights={path} holds {what}, not a plain state dict: save module.state_dict() instead"
        ) from error
    except Exception as error:  # a damaged file makes the readers fail in every way, AssertionError included
        reason = repr(error).splitlines()[0]
        raise UserError(f"model.weights={path} is no readable safetensors or torch file: {reason}") from error


def _unwrapped(data: Any, path: Path) -> dict[str, Tensor]:
    for key in NESTED_UNDER:
        if isinstance(data, Mapping) and isinstance(data.get(key), Mapping):
            data = data[key]
    if not isinstance(data, Mapping) or not data:
        raise UserError(f"model.weights={path} holds no tensors by name (it is a {type(data).__name__})")
    for name, tensor in data.items():
        if not isinstance(tensor, Tensor):
            raise UserError(f"model.weights={path}: {name!r} is a {type(tensor).__name__}, not a tensor")
    weights = {str(name): tensor for name, tensor in data.items()}
    while prefix := next((p for p in WRAPPERS if all(name.startswith(p) for name in weights)), ""):
        weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    return weights


def _refuse_other_classes(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    own = module.state_dict()
    different = {name for name in own if name in weights and own[name].shape != weights[name].shape}
    linear = [name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    if not linear or set(own) != set(weights):
        return
    weight, bias = f"{linear[-1]}.weight".lstrip("."), f"{linear[-1]}.bias".lstrip(".")
    theirs, ours = weights[weight].shape, own[weight].shape
    if weight in different <= {weight, bias} and theirs[1:] == ours[1:]:
        raise UserError(
            f"model.weights={path} knows {theirs[0]} classes, the data set has {ours[0]}: only the "
            f"classifier ({linear[-1]}) does not fit; take weights trained with {ours[0]} classes"
        )
