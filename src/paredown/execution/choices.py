"""What `optimise` found, as plain JSON data, and the check of what was read from a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from paredown.errors import UserError, nearest
from paredown.execution.forms import FORMS

Choices = dict[str, Any]

FORMAT = 1
KEYS = ("format", "layers", "groups", "memory_format", "dtype", "portable", "batch", "threads", "device")
MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}


def check(choices: Any) -> None:
    """UserError where `choices`, which are not {}, are not what `optimise` writes."""
    if not isinstance(choices, Mapping):
        raise UserError(f"choices of execution are a JSON object, not {type(choices).__name__}")
    for key in choices:
        if key not in KEYS:
            raise UserError(f"choices of execution have an unknown key {key!r}: {nearest(key, KEYS)}")
    if missing := [key for key in KEYS if key not in choices]:
        raise UserError(f"choices of execution have no {missing[0]!r}")
    if choices["format"] != FORMAT:
        raise UserError(f"choices of execution are of format {choices['format']!r}, this version reads {FORMAT}")
    for key, known in (("memory_format", MEMORY_FORMATS), ("dtype", DTYPES)):
        if str(choices[key]) not in known:
            raise UserError(f"choices of execution: {key}={choices[key]!r}: {nearest(str(choices[key]), known)}")
    layers, groups = choices["layers"], choices["groups"]
    if not isinstance(layers, Mapping):
        raise UserError(f"choices of execution: layers are a JSON object, not {type(layers).__name__}")
    for name, form in layers.items():
        if form not in FORMS:
            raise UserError(f"choices of execution: layer {name!r} in form {form!r}: {nearest(str(form), FORMS)}")
    if groups is not None and (isinstance(groups, bool) or not isinstance(groups, int) or groups < 2):
        raise UserError(f"choices of execution: groups={groups!r} is neither null nor a number above 1")
    interleaved = "interleaved" in layers.values()
    if interleaved != (groups is not None) or (interleaved and "native" in layers.values()):
        raise UserError("choices of execution: layers are interleaved if groups is set, and none is native then")


def check_names(chosen: Iterable[str], own: Iterable[str]) -> None:
    """UserError where the layers that were `chosen` for are not the network's `own`."""
    chosen, own = set(chosen), set(own)
    if foreign := sorted(chosen - own):
        raise UserError(f"choices of execution are of another network: no layer {foreign[0]!r} here")
    if missing := sorted(own - chosen):
        raise UserError(f"choices of execution are of another network: they have no layer {missing[0]!r}")
