"""timm's networks, an optional package: any classifier by its name, and its pretrained weights."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from paredown.core.constraints import Count
from paredown.core.errors import UserError, named_reason
from paredown.core.files import write_tensors
from paredown.core.keys import identity
from paredown.models.by_name import alternatives, built, refuse_decided

INSTALL = "model=timm needs the package timm: pip install 'paredown[timm]'"


@identity("timm", 2)
def classifier(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    num_classes: Count = 1000,
    in_channels: Count = 3,
    image_size: tuple[Count, Count] = (224, 224),
) -> nn.Module:
    """Build timm's network `name` with `arguments` of its function, with random weights; those that are made for one
    image size are made for `image_size`. Raise UserError for a name or an argument that timm does not have."""
    timm = _timm()
    require_network(name)
    refuse_decided(arguments := arguments or {}, _decided(timm))
    given = {"num_classes": num_classes, "in_chans": in_channels, **arguments}

    def build() -> nn.Module:
        sized = "img_size" not in given and _fixed_size(timm, name)
        found: nn.Module = timm.create_model(name, **given, **({"img_size": tuple(image_size)} if sized else {}))
        return found

    return built(name, arguments, build, (in_channels, *image_size))


def require_network(name: str) -> None:
    """Raise UserError, with the nearest, unless timm has a network `name` of its own, without or with a tag."""
    known = _timm().list_models()
    if not isinstance(name, str) or name.partition(".")[0] not in known:
        found = f"timm has no network {name!r}: {alternatives(name, known)}"
        raise UserError(f"{found}it has {len(known):,}, they are in timm.list_models()")


def weights_of(name: str, tag: str) -> dict[str, Any]:
    """Return timm's facts about its weights `tag` of the network `name` ("DEFAULT": of the tag in `name`, or its
    first): `key`, `input_size`, `mean`, `std`. Raise UserError where it has no such weights."""
    timm = _timm()
    require_network(name)
    bare, _, own = name.partition(".")
    wanted = own if tag.upper() == "DEFAULT" else tag
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{bare}.*")] + [""] * timm.is_model_pretrained(
        bare
    )
    if wanted not in tags and (wanted or not tags):
        known = ", ".join(filter(None, tags)) or "none"
        raise UserError(f"model.weights={tag}: timm's weights of {bare} are {known} (or DEFAULT), a path, or a URL")
    found = timm.get_pretrained_cfg(f"{bare}.{wanted}" if wanted else bare)
    return {"key": f"{bare}.{found.tag}", "input_size": found.input_size, "mean": found.mean, "std": found.std}


def downloaded_weights(name: str, tag: str) -> str:
    """Return the local file of timm's weights `tag` of `name`, kept in torch's hub folder. Raise UserError, saying how
    to get them, where they cannot be had."""
    key = weights_of(name, tag)["key"]
    path = Path(torch.hub.get_dir()) / "checkpoints" / "paredown" / "timm" / f"{key}.safetensors"
    if path.is_file():
        return str(path)
    try:
        tensors = _timm().create_model(key, pretrained=True).state_dict()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {part: tensor.contiguous() for part, tensor in tensors.items()})
    except Exception as error:  # whatever the hub's client raises
        raise UserError(
            f"cannot download timm's weights {key} ({named_reason(error)}): where that works, save "
            f"timm.create_model({key!r}, pretrained=True).state_dict(), and give model.weights=PATH"
        ) from error
    return str(path)


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError(INSTALL) from error
    return timm


def _decided(timm: Any) -> list[str]:
    """List the arguments that read weights or that the images decide."""
    own = [name for name in inspect.signature(timm.create_model).parameters if name != "kwargs"]
    return [*own, "num_classes", "in_chans", "img_size", "features_only", "out_indices"]


def _fixed_size(timm: Any, name: str) -> bool:
    """Tell whether the network `name` is made for one size of images, which it then takes as an argument."""
    found = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return bool(found is not None and found.fixed_input_size)
