"""Networks that are given as live modules: their architecture is a digest, and the module itself stays at hand in the
process that it was given to."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from paredown.core.blueprint import fingerprint
from paredown.core.errors import UserError, named_reason
from paredown.core.keys import digest as digest_of
from paredown.core.keys import identity
from paredown.core.trust import TARGET
from paredown.layers.replaceable import LEFT_ALONE, READ
from paredown.models.described import description
from paredown.models.plain import settle

COPIED = (
    "tensors that are neither parameters nor buffers have to be detached (see torch.nn.utils.prune.remove, "
    "remove_weight_norm)"
)
MOST = 8  # modules that are kept
_GIVEN: dict[str, nn.Module] = {}  # by structure, and by description; the latest last
PLAIN = (bool, int, float, str, type(None))


def give(module: nn.Module, shape: tuple[int, int, int] | None = None, start: bool = False) -> dict[str, Any]:
    """Return the architecture of `module`, from which states of it are read in this process while it is among the MOST
    that were given last. Its layers are made plain, or marked to be left alone, for images of `shape`; what that
    changes is part of it, and so are its weights where they are the `start` of a training. Raise UserError where it
    cannot be copied."""
    kept, name, code = copied(module), structure(module), description(module)
    settled = {} if shape is None else _settled(kept, shape)
    for known in (name, code):
        _GIVEN.pop(known, None)
        _GIVEN[known] = kept
    while len({id(one) for one in _GIVEN.values()}) > MOST:
        del _GIVEN[next(iter(_GIVEN))]
    weights = {"start": fingerprint(module)} if start else {}
    changed = {"settled": settled} if settled else {}
    return {TARGET: f"{__name__}.{live.__name__}", "digest": name, "code": code, **weights, **changed}


def copied(module: nn.Module) -> nn.Module:
    """Return a copy of `module` on the CPU, in eval mode. Raise UserError where it cannot be copied, or stored."""
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"the network's state holds a {type(value).__name__} ({name}), and tensors alone are stored: give the "
                "network before it is quantised, without extra state"
            )
    try:
        return copy.deepcopy(module).cpu().eval()
    except Exception as error:
        computed = [
            f"{name}.{part}".lstrip(".")
            for name, layer in module.named_modules()
            for part, value in vars(layer).items()
            if isinstance(value, Tensor) and not value.is_leaf
        ]
        culprit = f" ({computed[0]})" if computed else ""
        raise UserError(f"the network cannot be copied{culprit}, {COPIED}: {named_reason(error)}") from error


def _settled(module: nn.Module, shape: tuple[int, int, int]) -> dict[str, str]:
    """Return what became of the layers of `module`, by name, when it was settled as other libraries' networks are."""
    before = {name: type(layer) for name, layer in module.named_modules()}
    settle(module, shape)
    found: dict[str, str] = {}
    for name, layer in module.named_modules():
        marks = [mark for mark in (LEFT_ALONE, READ) if hasattr(layer, mark)]
        if marks or type(layer) is not before.get(name):
            found[name] = " ".join([type(layer).__name__, *marks])
    return found


def structure(module: nn.Module) -> str:
    """Return a digest of the architecture of `module`, by which its states are read: its layers, plain attributes, the
    shapes of its tensors, and the code of classes that are not torch's."""
    layers = {
        name: [type(layer).__qualname__, layer.extra_repr(), _plain(layer)] for name, layer in module.named_modules()
    }
    tensors = {name: [list(tensor.shape), str(tensor.dtype)] for name, tensor in module.state_dict().items()}
    kinds = {type(layer) for layer in module.modules() if not type(layer).__module__.startswith("torch.")}
    return digest_of([layers, tensors, sorted(map(_code, kinds))])


@identity("live", 2)
def live(digest: str, start: str = "", code: str = "", settled: Mapping[str, str] | None = None) -> nn.Module:
    """Return a copy of the module that was given of the description `code`, or else of the structure `digest`; `start`
    is its weights' fingerprint, `settled` what was made of its layers. Raise UserError where none was in this
    process."""
    name = code if code in _GIVEN else digest
    if name not in _GIVEN:
        raise UserError(
            f"this network was given as a live module (digest {digest}), whose code is not stored: "
            "paredown.load(folder, network=module) reads it, module being one of the same architecture"
        )
    return copy.deepcopy(_GIVEN[name])


def _plain(layer: nn.Module) -> dict[str, Any]:
    """Return the attributes of `layer` that are plain values, but for the mode it is in."""
    own = {name: value for name, value in vars(layer).items() if isinstance(value, PLAIN)}
    return {name: value for name, value in sorted(own.items()) if name != "training"}


def _code(kind: type[nn.Module]) -> str:
    """Return the source of a class; its functions' bytecode where that is not kept, as in some notebooks."""
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        functions = sorted((name, item) for name, item in vars(kind).items() if inspect.isfunction(item))
        return repr([(name, item.__code__.co_code, item.__code__.co_names) for name, item in functions])
