"""Weights a user brings: safetensors, or a torch state dict read without running any pickled code; a file, or a URL."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from paredown.blueprint import load_weights
from paredown.errors import UserError
from paredown.models import vision

TORCHVISIONS = "imagenet1k_v1"  # torchvision's name for the first weights of each network, those of most papers
NESTED_UNDER = ("state_dict", "model")
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel and torch.compile
BATCH_COUNTER = ".num_batches_tracked"


def weights_file(model: Mapping[str, Any]) -> str | None:
    """The file that `weights` of the model's config means: its path; for a URL, or `imagenet1k_v1`, where it was
    downloaded to (torch's hub folder, once). Raises UserError for no such file, no such weights, or no network."""
    weights = model["weights"]
    if weights is None:
        return None
    if str(weights).lower() == TORCHVISIONS:
        return _downloaded(_torchvisions_url(model))
    if str(weights).startswith(("https://", "http://")):
        return _downloaded(weights)
    if not Path(weights).is_file():
        raise UserError(
            f"model.weights={weights}: no such file (a path, a URL, or {TORCHVISIONS} for torchvision's first weights)"
        )
    return str(weights)


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


def _torchvisions_url(model: Mapping[str, Any]) -> str:
    from torchvision import models

    module, _, name = model["_target_"].rpartition(".")
    if module != vision.__name__:
        raise UserError(f"model.weights={TORCHVISIONS}: {name} is no network of torchvision")
    width = vision.SHUFFLENET_WIDTHS[model["width"]] if "width" in model else ""
    url: str = models.get_model_weights(f"{name}_{width}" if width else name)["IMAGENET1K_V1"].url
    return url


def _downloaded(url: str) -> str:
    """The file of `url`, whose hash is checked where its name has one, as torchvision's names do."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if path.is_file():
        return str(path)
    found = re.search(r"-([0-9a-f]{8,})\.", path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), found[1] if found else None, progress=False)
    except (OSError, HTTPException, RuntimeError) as error:  # no network, no such page; another hash
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot download {url} ({reason}): fetch it where that works, and give model.weights=PATH"
        ) from error
    return str(path)


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
