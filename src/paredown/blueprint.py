"""Which layer becomes what, as data: a network is an architecture, a blueprint and weights; no pickle anywhere."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from paredown.errors import UserError, nearest
from paredown.plan import Network

ARCHITECTURE, WEIGHTS = "architecture.json", "weights.safetensors"
FORMAT = 1  # of these two files; one without a number is of format 1 too
MODELS = "paredown.models."  # a state may come from another machine: nothing outside is ever called


class CompressedLayer(nn.Module, ABC):
    """A layer that torch does not have: a rewritten one, or an architecture's own.

    The kind `x` of a rewritten layer lives in `paredown/layers/x.py`, whose `build(dense, **arguments)` makes one in
    the place of the layer `dense`, from its weights or from scratch; the arguments are plain JSON data.
    """

    @abstractmethod
    def active_weights(self) -> int:
        """How many weights (biases not counted) the layer really has."""

    @abstractmethod
    def macs(self, input_shape: tuple[int, ...]) -> int:
        """Multiply-adds for one input of shape (channels, height, width), or (features,), without the batch."""

    @abstractmethod
    def deployed(self) -> nn.Module:
        """Plain torch modules that compute the same thing."""


def create(architecture: Mapping[str, Any], input_shape: tuple[int, int, int]) -> Network:
    """A dense network, freshly initialised from torch's global generator."""
    return Network(_instantiate(architecture), dict(architecture), input_shape)


def rewrite(network: Network, name: str, kind: str, **arguments: Any) -> None:
    """Make the layer `name` of `network` a `kind` (a file in `paredown/layers/`), as its `build` does."""
    place(network, name, _build_layer(network.module.get_submodule(name), kind, arguments), kind, **arguments)


def place(network: Network, name: str, layer: nn.Module, kind: str, **arguments: Any) -> None:
    """Put `layer`, a `kind` of `arguments` that already has its weights, at `name` of `network`."""
    network.module.set_submodule(name, layer)
    network.blueprint[name] = {"kind": kind} | arguments


def build(architecture: Mapping[str, Any], blueprint: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """The module that `architecture` and `blueprint` describe, with fresh weights."""
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
    temporary = folder / f".{WEIGHTS}.{os.getpid()}"
    save_file(weights, temporary)
    temporary.replace(folder / WEIGHTS)


def read(folder: Path | str) -> Network:
    """The network saved in `folder`, on the CPU, in eval mode. Raises UserError for a folder that holds none."""
    folder = Path(folder)
    try:
        data = json.loads((folder / ARCHITECTURE).read_text())
        check_format(data, folder)
        weights = load_file(folder / WEIGHTS)
        module = build(data["architecture"], data["blueprint"])
    except (OSError, KeyError, json.JSONDecodeError, SafetensorError) as error:
        raise UserError(f"{folder} holds no readable network: {type(error).__name__}: {error}") from error
    load_weights(module, weights, str(folder))
    return Network(module.eval(), data["architecture"], tuple(data["input_shape"]), data["blueprint"])


def check_format(data: Mapping[str, Any], source: Path | str) -> None:
    """Raises UserError where a newer version of paredown wrote `data`, the contents of an architecture.json."""
    if (number := data.get("format", 1)) != FORMAT:
        raise UserError(
            f"{source} was written by a newer paredown, in format {number!r}; this one reads format {FORMAT}: update it"
        )


def load(folder: Path | str) -> nn.Module:
    """The module saved in `folder`, in eval mode, ready to run, count or deploy (`surgery.deploy`)."""
    return read(folder).module


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], source: str) -> None:
    """Load `weights` into `module`; every name and shape must fit. Raises UserError naming the first that does not."""
    own = module.state_dict()
    for name in own:
        if name not in weights:
            raise UserError(f"{source} has no tensor {name!r}: it belongs to another architecture")
        if own[name].shape != weights[name].shape:
            theirs, ours = tuple(weights[name].shape), tuple(own[name].shape)
            raise UserError(f"{source}: {name} has shape {theirs}, the network needs {ours}")
    if extra := sorted(set(weights) - set(own)):
        raise UserError(f"{source} has {len(extra)} tensors this network does not have, the first is {extra[0]!r}")
    module.load_state_dict(dict(weights))


def fingerprint(module: nn.Module) -> str:
    """40 hex digits that name the parameters and buffers of `module`, whatever made them."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:40]


def write_text(path: Path, text: str) -> None:
    """Write through a temporary name and a rename, so that no reader sees half a file."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def parameters(architecture: Mapping[str, Any]) -> set[str]:
    """The names of the arguments that the model of `architecture` takes."""
    return set(inspect.signature(_builder(architecture)).parameters)


def _instantiate(architecture: Mapping[str, Any]) -> nn.Module:
    builder = _builder(architecture)
    arguments = {key: value for key, value in architecture.items() if key != "_target_"}
    _check_arguments(architecture["_target_"], builder, arguments)
    return builder(**arguments)


def _builder(architecture: Mapping[str, Any]) -> Callable[..., nn.Module]:
    target = architecture["_target_"]
    if not target.startswith(MODELS):
        raise UserError(f"architecture {target!r} is not below {MODELS[:-1]}")
    module_name, _, function = target.rpartition(".")
    builder = getattr(importlib.import_module(module_name), function, None)
    if builder is None:
        raise UserError(f"{module_name} has no {function!r}")
    return builder


def _build_layer(dense: nn.Module, kind: str, arguments: Mapping[str, Any]) -> nn.Module:
    known = sorted(p.stem for p in (Path(__file__).parent / "layers").glob("[a-z]*.py"))
    if not re.fullmatch(r"[a-z_0-9]+", kind) or kind not in known:
        raise UserError(f"no layer kind {kind!r}: {nearest(kind, known)}")
    function = importlib.import_module(f"paredown.layers.{kind}").build
    _check_arguments(f"layer kind {kind!r}", function, arguments, dense)
    return function(dense, **arguments)


def _check_arguments(what: str, function: Callable[..., Any], arguments: Mapping[str, Any], *first: Any) -> None:
    """Raises UserError where `function` does not take what a file, perhaps a newer version's, gives it."""
    try:
        inspect.signature(function).bind(*first, **arguments)
    except TypeError as error:
        raise UserError(f"{what}: {error} (was this made by a newer paredown?)") from error
