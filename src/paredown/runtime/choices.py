"""The choices of `optimise` as plain JSON data, and their validation when read from a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from paredown.core.errors import UserError, nearest
from paredown.runtime.backends import BACKENDS

Choices = dict[str, Any]

FORMAT = 1
KEYS = ("format", "layers", "groups", "memory_format", "dtype", "portable", "batch", "threads", "device")
MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check(choices: Any) -> None:
    """Raise UserError unless `choices`, which are not empty, have the format that `optimise` writes."""
    if not isinstance(choices, Mapping):
        raise UserError(f"backend choices are a JSON object, not {type(choices).__name__}")
    for key in choices:
        if key not in KEYS:
            raise UserError(f"backend choices have an unknown key {key!r}: {nearest(key, KEYS)}")
    if missing := [key for key in KEYS if key not in choices]:
        raise UserError(f"backend choices have no {missing[0]!r}")
    if choices["format"] != FORMAT:
        raise UserError(f"backend choices are of format {choices['format']!r}, this version reads {FORMAT}")
    for key, known in (("memory_format", MEMORY_FORMATS), ("dtype", DTYPES)):
        if str(choices[key]) not in known:
            raise UserError(f"backend choices: {key}={choices[key]!r}: {nearest(str(choices[key]), known)}")
    _check_layers(choices["layers"], choices["groups"])


def check_names(chosen: Iterable[str], expected: Iterable[str]) -> None:
    """Raise UserError unless the layers `chosen` are the `expected` layers of the network."""
    chosen, expected = set(chosen), set(expected)
    if foreign := sorted(chosen - expected):
        raise UserError(f"backend choices are of another network: no layer {foreign[0]!r} here")
    if missing := sorted(expected - chosen):
        raise UserError(f"backend choices are of another network: they have no layer {missing[0]!r}")


def _check_layers(layers: Any, groups: Any) -> None:
    if not isinstance(layers, Mapping):
        raise UserError(f"backend choices: layers are a JSON object, not {type(layers).__name__}")
    for name, backend in layers.items():
        if backend not in BACKENDS:
            known = nearest(str(backend), BACKENDS)
            raise UserError(f"backend choices: layer {name!r} with backend {backend!r}: {known}")
    if groups is not None and (isinstance(groups, bool) or not isinstance(groups, int) or groups < 2):
        raise UserError(f"backend choices: groups={groups!r} is neither null nor a number above 1")
    interleaved = "interleaved" in layers.values()
    if interleaved != (groups is not None) or (interleaved and "native" in layers.values()):
        raise UserError("backend choices: layers are interleaved if groups is set, and none is native then")
