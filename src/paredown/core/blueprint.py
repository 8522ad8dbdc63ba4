"""Networks as data: an architecture, a blueprint (which layer became what) and weights, read without pickle."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from paredown.core.bounds import bounded
from paredown.core.constraints import check_arguments
from paredown.core.errors import UserError, nearest
from paredown.core.files import read_plain, read_tensors, reading, write_tensors, write_text
from paredown.core.keys import IDENTITY
from paredown.core.kinds import KINDS
from paredown.core.legacy import upgrade
from paredown.core.network import Network
from paredown.core.trust import TARGET, load_module, resolve

ARCHITECTURE, WEIGHTS = "architecture.json", "weights.safetensors"
FORMAT = 2  # of these two files; one without a number is of format 1
LARGEST_INPUT = 2**26  # values of one image
RESTORE = "restore it from a copy, or make it again"
MODELS = "paredown.models"  # the package of the project's own model builders


@dataclass(frozen=True)
class State:
    """What every reader of an architecture.json needs of it; an export's holds more."""

    architecture: dict[str, Any]
    blueprint: dict[str, dict[str, Any]]
    input_shape: tuple[int, int, int]
    format: int = 1


def create(architecture: Mapping[str, Any], input_shape: tuple[int, int, int]) -> Network:
    """Build a dense network, freshly initialised from torch's global generator."""
    return Network(_instantiate(architecture), dict(architecture), input_shape)


def rewrite(network: Network, name: str, kind: str, **arguments: Any) -> None:
    """Replace the layer `name` of `network` by one of `kind`, as the kind's `build` makes it."""
    place(network, name, _build_layer(network.module.get_submodule(name), kind, arguments), kind, **arguments)


def place(network: Network, name: str, layer: nn.Module, kind: str, **arguments: Any) -> None:
    """Put `layer`, a `kind` of `arguments` that already has its weights, at `name` of `network`."""
    network.module.set_submodule(name, layer)
    network.blueprint[name] = {"kind": kind} | arguments


def build(architecture: Mapping[str, Any], blueprint: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """Build the module that `architecture` and `blueprint` describe, with fresh weights."""
    module = _instantiate(architecture)
    for name, entry in blueprint.items():
        arguments = {key: value for key, value in entry.items() if key != "kind"}
        module.set_submodule(name, _build_layer(module.get_submodule(name), entry["kind"], arguments))
    return module


def save(network: Network, folder: Path) -> None:
    """Write `network` as architecture.json (with the blueprint) and weights.safetensors into an existing folder."""
    data = {
        "format": FORMAT,
        "architecture": network.architecture,
        "blueprint": network.blueprint,
        "input_shape": network.input_shape,
    }
    write_text(folder / ARCHITECTURE, json.dumps(data, indent=1))
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.module.state_dict().items()}
    write_tensors(folder / WEIGHTS, weights)


def read(folder: Path | str, remedy: str = RESTORE) -> Network:
    """Read the network saved in `folder`, on the CPU, in eval mode. Raise UserError for a folder that holds none."""
    folder = Path(folder)
    data, weights = read_files(folder, remedy)
    with reading(folder, remedy), bounded(weights):
        if data.get("format", 1) < FORMAT:
            data, weights = upgrade(data, weights)
        module = build(data["architecture"], data["blueprint"])
        load_weights(module, weights, str(folder))
    return Network(module.eval(), data["architecture"], tuple(data["input_shape"]), data["blueprint"])


def read_files(folder: Path, remedy: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the contents of architecture.json, a `State`, and the tensors beside it. Raise UserError for damage."""
    found: dict[str, Any] = read_plain(folder / ARCHITECTURE, State, remedy)
    check_format(found, folder)
    if min(found["input_shape"]) < 1 or math.prod(found["input_shape"]) > LARGEST_INPUT:
        raise UserError(f"{folder / ARCHITECTURE}: no image has the shape {found['input_shape']} ({remedy})")
    return found, read_tensors(folder / WEIGHTS, remedy)


def check_format(data: Mapping[str, Any], source: Path | str) -> None:
    """Raise UserError where a newer version of paredown wrote `data`, the contents of an architecture.json."""
    if (number := data.get("format", 1)) not in range(1, FORMAT + 1):
        raise UserError(
            f"{source} was written by a newer paredown, in format {number!r}; this one reads format {FORMAT}: update it"
        )


def load(folder: Path | str) -> nn.Module:
    """Load the module saved in `folder`, in eval mode, ready to run, count or deploy (`core.deploy`)."""
    return read(folder).module


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load `weights` into `module`; every name and shape must fit. Raise UserError naming the first that does not."""
    check_weights(module.state_dict(), weights, source)
    module.load_state_dict(dict(weights))


def check_weights(own: Mapping[str, Tensor], weights: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError naming the first of `weights` that cannot be that of `own`: by name, shape or type."""
    for name in own:
        if name not in weights:
            raise UserError(f"{source} has no tensor {name!r}: it belongs to another architecture")
        if own[name].shape != weights[name].shape:
            theirs, ours = tuple(weights[name].shape), tuple(own[name].shape)
            raise UserError(f"{source}: {name} has shape {theirs}, the network needs {ours}")
    if extra := sorted(set(weights) - set(own)):
        raise UserError(f"{source} has {len(extra)} tensors this network does not have, the first is {extra[0]!r}")
    for name, tensor in weights.items():
        if wrong := _unlike(own[name], tensor):
            raise UserError(f"{source}: {name} {wrong}")


def _unlike(own: Tensor, given: Tensor) -> str:
    """Say why `given` cannot be the values of `own`, of the same shape; empty where it can."""
    if given.is_meta:
        return "has no values (it is on the device meta): save the weights after loading them"
    if given.layout != torch.strided or given.is_nested:
        return f"is stored as {given.layout}: save tensor.to_dense()"
    if given.is_quantized or given.is_complex():
        return f"holds {given.dtype}, the network needs {own.dtype}"
    if given.is_floating_point() != own.is_floating_point() or (given.dtype == torch.bool) != (own.dtype == torch.bool):
        return f"holds {given.dtype}, the network needs {own.dtype}: save the network before it is quantised"
    return ""


def fingerprint(module: nn.Module) -> str:
    """Hash the parameters and buffers of `module` to 40 hex digits, whatever made them."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:40]


def builder(architecture: Mapping[str, Any], section: str = "architecture") -> Callable[..., nn.Module]:
    """Return the function that makes the model of `architecture`, which may come from another machine. Raise UserError
    for one that is no model builder (a function with an `@identity`) of paredown's, of a plugin's or trusted."""
    found: Callable[..., nn.Module] = resolve(architecture, section, MODELS)
    if not inspect.isfunction(found) or not hasattr(found, IDENTITY):
        raise UserError(f"{section}.{TARGET}={architecture[TARGET]} makes no model")
    return found


def parameters(architecture: Mapping[str, Any]) -> set[str]:
    """Return the names of the arguments that the model of `architecture` takes."""
    return set(inspect.signature(builder(architecture)).parameters)


def _instantiate(architecture: Mapping[str, Any]) -> nn.Module:
    build = builder(architecture)
    arguments = {key: value for key, value in architecture.items() if key != "_target_"}
    _check_names(architecture["_target_"], build, arguments)
    return build(**check_arguments(build, arguments, "model"))


def _build_layer(dense: nn.Module, kind: str, arguments: Mapping[str, Any]) -> nn.Module:
    if kind not in KINDS:
        raise UserError(f"no layer kind {kind[:100]!r}: {nearest(kind, KINDS)}")
    function = load_module(KINDS[kind].module, f"layer kind {kind!r}").build
    _check_names(f"layer kind {kind!r}", function, arguments, dense)
    return function(dense, **arguments)


def _check_names(what: str, function: Callable[..., Any], arguments: Mapping[str, Any], *first: Any) -> None:
    """Raise UserError where `function` has no parameter for one of `arguments`, or needs another."""
    try:
        inspect.signature(function).bind(*first, **arguments)
    except TypeError as error:
        raise UserError(f"{what}: {error} (was this made by a newer paredown?)") from error
