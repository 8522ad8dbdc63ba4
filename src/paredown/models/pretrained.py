"""Pretrained weights from a file or URL: safetensors, or a torch state dict, loaded without running pickled code."""

from __future__ import annotations

import logging
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from paredown.core.blueprint import check_weights, load_weights
from paredown.core.constraints import written
from paredown.core.errors import UserError, nearest
from paredown.core.files import reading, typed_path
from paredown.models import timm, torchvision
from paredown.models.checkpoints import Weights, check_names, find_weights
from paredown.models.download import downloaded, torchvisions

TORCHVISION_WEIGHTS = "imagenet1k_v1"  # torchvision's first weights of each network, used by most papers
DEFAULT = "default"  # torchvision's best, or timm's first
NAMED = re.compile(r"default|[a-z0-9]+(_[a-z0-9]+)*", re.IGNORECASE)  # weights by name, and no path
BATCH_COUNTER = ".num_batches_tracked"
HEADS = ("keep", "new")
OF_DATASET = "dataset"
PREPROCESSING = ("weights", OF_DATASET)  # whose size and normalisation of images
log = logging.getLogger("paredown")


def weights_file(model: Mapping[str, Any]) -> str | None:
    """Return the file that `weights` in the model's config refers to: a path, or the download of a URL or of
    torchvision's or timm's weights by their name (`models.download`). Raise UserError if there is none."""
    weights = model.get("weights")
    if model.get("head", "keep") not in HEADS:
        raise UserError(f"model.head={written(model['head'])}: keep, or new for a new classifier")
    if weights is None:
        return None
    if not isinstance(weights, str):
        raise UserError(
            f"model.weights={written(weights)} (text: a path, a URL, or {TORCHVISION_WEIGHTS}; null for random weights)"
        )
    if weights.startswith(("https://", "http://")):
        return downloaded(weights)
    path = typed_path(weights)
    if path.is_file():
        return str(path)
    if weights.lower() in (TORCHVISION_WEIGHTS, DEFAULT) or (_library(model) and NAMED.fullmatch(weights)):
        return _download(model, weights)
    raise UserError(
        f"model.weights={weights}: no such file "
        f"(a path, a URL, or {TORCHVISION_WEIGHTS} for torchvision's first weights)"
    )


def preprocessing(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the images of the weights that the model's config names were scaled to, as settings of a data set:
    `size`, `mean` and `std`; nothing where that is not known."""
    weights, asked = model.get("weights"), model.get("preprocessing", OF_DATASET)
    if asked not in PREPROCESSING:
        raise UserError(f"model.preprocessing={asked}: {nearest(str(asked), PREPROCESSING)}")
    if not isinstance(weights, str) or not NAMED.fullmatch(weights) or typed_path(weights).is_file():
        return {}
    if asked == OF_DATASET:
        return {}
    if _library(model) == timm.__name__:
        facts = timm.weights_of(model["name"], weights)
        return {"size": facts["input_size"][-1], "mean": list(facts["mean"]), "std": list(facts["std"])}
    made = _torchvision_entry(model, weights).transforms()
    return {"size": made.crop_size[0], "mean": list(made.mean), "std": list(made.std)}


def load_pretrained(
    module: nn.Module, path: Path | str, classifier: str | None = None, *, new_head: bool = False
) -> None:
    """Load all weights of `module` from `path`: safetensors, or a torch file that is a state dict or has one under
    one of `checkpoints.PLACES`, as it was saved or in a wrapper. With `new_head` those of the layer `classifier` stay
    as they are. Raise UserError for a file that is missing, unreadable or does not fit."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"model.weights={path}: no such file (a .safetensors file or a torch state dict is needed)")
    source, own = f"model.weights={path}", module.state_dict()
    parts = [f"{classifier}.{name}".lstrip(".") for name in ("weight", "bias")] if classifier is not None else []
    with reading(source, "give another file"):
        weights = find_weights(_read(path), own, source)
        # files written before PyTorch 0.4.1, such as torchvision's oldest, lack this counter
        weights |= {name: own[name] for name in own if name.endswith(BATCH_COUNTER) and name not in weights}
        weights |= _tied(weights, own)
        if new_head:
            _keep_head(weights, own, parts)
        check_names(weights, own, source)
        _refuse_other_classes(own, weights, parts, source)
        check_weights(own, weights, source)
        _refuse_not_finite(weights, source)
        load_weights(module, weights, source)


def _tied(weights: Weights, own: Mapping[str, Tensor]) -> Weights:
    """Return what `weights` lack of the network's `own` tensors that are the same under several names, of which a file
    may hold one."""
    places = {name: (tensor.data_ptr(), tensor.shape) for name, tensor in own.items() if tensor.numel()}
    held = {place: weights[name] for name, place in places.items() if name in weights}
    return {name: held[place] for name, place in places.items() if name not in weights and place in held}


def _keep_head(weights: Weights, own: Mapping[str, Tensor], parts: list[str]) -> None:
    """Put the network's `own` classifier, whose tensors are `parts`, into `weights`."""
    theirs = weights.get(parts[0])
    known = f"; the one of {len(theirs)} classes in the weights is not used" if theirs is not None else ""
    name, classes = parts[0].rpartition(".")[0], len(own[parts[0]])
    log.info(
        "model.head=new: the classifier %s (%d classes) starts anew%s",
        name,
        classes,
        known,
    )
    weights |= {name: own[name] for name in parts if name in own}
    for name in parts:
        if name not in own:
            weights.pop(name, None)  # a bias that only theirs has


def _library(model: Mapping[str, Any]) -> str | None:
    """Return the module of paredown's that has the model of another library, None for any other model."""
    module = str(model.get("_target_")).rpartition(".")[0]
    return module if module in (torchvision.__name__, timm.__name__) else None


def _download(model: Mapping[str, Any], weights: str) -> str:
    """Return the local file of the weights of that name, torchvision's or timm's."""
    library = _library(model)
    if library is None:
        name = str(model["_target_"]).rpartition(".")[2]
        raise UserError(f"model.weights={weights}: {name} is no network of torchvision")
    if library == timm.__name__:
        return timm.downloaded_weights(model["name"], weights)
    return torchvisions(_torchvision_entry(model, weights).url)


def _torchvision_entry(model: Mapping[str, Any], weights: str) -> Any:
    """Return torchvision's entry for the weights of that name. Raise UserError where it has none."""
    from torchvision import models

    name = str(model["_target_"]).rpartition(".")[2]
    if name == torchvision.classifier.__name__:
        torchvision.require_classifier(name := model["name"])
    width = torchvision.SHUFFLENET_WIDTHS[model["width"]] if "width" in model else ""
    entries = models.get_model_weights(f"{name}_{width}" if width else name)
    if weights.upper() == DEFAULT.upper():
        return entries.DEFAULT
    if weights.upper() not in entries.__members__:
        known = ", ".join(entry.name for entry in entries) or "none"
        raise UserError(f"model.weights={weights}: torchvision's weights of {name} are {known} (or DEFAULT)")
    return entries[weights.upper()]


def _read(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_zip(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL (\S+)", str(error))
        what = f"pickled code ({culprit[1]})" if culprit else "something else"
        raise UserError(
            f"model.weights={path} holds {what}, not a plain state dict: save module.state_dict() instead"
        ) from error


def _check_zip(path: Path) -> None:
    """Raise UserError for an archive whose members are larger than itself: torch never compresses them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            held = sum(member.file_size for member in archive.infolist())
        if held > path.stat().st_size:
            raise UserError(
                f"model.weights={path} is packed: it would unpack to {held:,} bytes; save it with torch.save"
            )


def _refuse_not_finite(weights: Mapping[str, Tensor], source: str) -> None:
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise UserError(
                f"{source}: {name} holds values that are no numbers (nan or infinite): its training diverged"
            )


def _refuse_other_classes(
    own: Mapping[str, Tensor], weights: Mapping[str, Tensor], parts: list[str], source: str
) -> None:
    """Raise UserError, offering a new one, where the classifier, whose tensors are `parts`, alone does not fit."""
    different = {name for name in own if own[name].shape != weights[name].shape}
    if not different or not different <= set(parts):
        return
    theirs, ours = len(weights[parts[0]]), len(own[parts[0]])
    raise UserError(
        f"{source} knows {theirs} classes, the data set has {ours}: only the classifier "
        f"({parts[0].rpartition('.')[0]}) does not fit; model.head=new starts a new one"
    )
