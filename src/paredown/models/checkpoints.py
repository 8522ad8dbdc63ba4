"""The weights inside a checkpoint of another project: in which dictionary, under which prefix, with which masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from paredown.core.errors import UserError, printable

# where training scripts keep the weights, the likeliest first: averages (EMA) only where there is nothing else
PLACES = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
DEEPEST = 3  # dictionaries inside one another
# parts of names by torch.compile, FSDP, activation checkpointing and Lightning's Fabric, anywhere in a name
WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
PARALLEL = "module"  # by DataParallel, which may wrap a part of the network
ORIGINAL, MASK = "_orig", "_mask"  # torch.nn.utils.prune: the weight is their product
SHOWN = 3

Weights = dict[str, Tensor]


def find_weights(data: Any, own: Mapping[str, Tensor], source: str) -> Weights:
    """Return the tensors of `data`, the contents of `source`, under the names of the network's `own` as far as a
    prefix, a wrapper or pruning masks explain the difference. Raise UserError where `data` holds no tensors by name, or
    the network twice."""
    found = [_renamed(weights, own, source) for weights in _dictionaries(data)]
    if not found:
        held = printable(", ".join(map(str, list(data)[:SHOWN]))) if isinstance(data, Mapping) else type(data).__name__
        raise UserError(f"{source} holds no tensors by name (it holds {held or 'nothing'})")
    return max(found, key=lambda weights: len(own.keys() & weights.keys()))  # of equals the first


def check_names(weights: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    """Raise UserError unless `weights` and `own` have the same names: the first of each, and the nearest fit."""
    missing = [name for name in own if name not in weights]
    extra = [name for name in weights if name not in own]
    if not missing and not extra:
        return
    said = [f"it has no tensor {_first(missing)}"] if missing else []
    said += [f"it has {len(extra)} tensors this network does not have: {_first(extra)}"] if extra else []
    said += [near] if (near := _nearest(missing, extra, weights, own)) else []
    fit = len(own) - len(missing)
    raise UserError(f"{source} fits another network ({fit} of {len(own)} names agree): {'; '.join(said)}")


def _first(names: list[str]) -> str:
    more = ", ..." if len(names) > SHOWN else ""
    return ", ".join(repr(printable(name)) for name in names[:SHOWN]) + more


def _nearest(
    missing: list[str], extra: list[str], weights: Mapping[str, Tensor], own: Mapping[str, Tensor]
) -> str | None:
    """Say which tensor of the file has the shape and nearly the name of the first that it lacks."""
    for name in missing[:SHOWN]:
        same = [other for other in extra if weights[other].shape == own[name].shape]
        if close := get_close_matches(name, same, n=1, cutoff=0.0):
            return f"nearest to {name!r} is {printable(close[0])!r}: rename what differs"
    return None


def _dictionaries(data: Any, depth: int = 0, seen: set[tuple[int, int]] | None = None) -> Iterator[Weights]:
    """Yield the tensors of every dictionary in `data` that has any, those in the likeliest places first. One that
    several others share is visited once at each depth."""
    seen = set() if seen is None else seen
    if not isinstance(data, Mapping) or depth > DEEPEST or (id(data), depth) in seen:
        return
    seen.add((id(data), depth))
    tensors = {str(name): value for name, value in data.items() if isinstance(value, Tensor)}
    if tensors:
        yield tensors
    rest = [key for key in data if key not in PLACES]
    for key in [*(place for place in PLACES if place in data), *rest]:
        yield from _dictionaries(data[key], depth + 1, seen)


def _renamed(weights: Weights, own: Mapping[str, Tensor], source: str) -> Weights:
    """Return `weights` without masks, wrappers, and the prefix under which most of the names of `own` are found."""
    plain = _without(_unmasked(weights), WRAPPERS)
    fitting = {prefix: _fitting(plain, own, prefix) for prefix in sorted(_prefixes(plain, own), key=_likelihood)}
    best = [prefix for prefix in fitting if fitting[prefix] == max(fitting.values())]
    if fitting[best[0]] and len(best) > 1 and _likelihood(best[0])[0] == _likelihood(best[1])[0]:
        raise UserError(f"{source} holds the network below {best[0]!r} and below {best[1]!r}: save one of them alone")
    prefix = best[0]
    below = {name.removeprefix(prefix): tensor for name, tensor in plain.items() if name.startswith(prefix)}
    serial = _without(below, {PARALLEL})
    return serial if _fitting(serial, own) > _fitting(below, own) else below


def _unmasked(weights: Weights) -> Weights:
    """Multiply the weights that torch.nn.utils.prune keeps by their masks."""
    masked = [name.removesuffix(MASK) for name in weights if name.endswith(MASK)]
    found = dict(weights)
    for name in masked:
        original, mask = weights.get(name + ORIGINAL), weights[name + MASK]
        if original is not None and original.shape == mask.shape and not (original.is_meta or mask.is_meta):
            found[name] = original * mask.to(original.dtype)
            del found[name + ORIGINAL], found[name + MASK]
    return found


def _without(weights: Weights, parts: set[str]) -> Weights:
    """Drop `parts` from the dotted names, unless two tensors would then have the same."""
    named = {".".join(part for part in name.split(".") if part not in parts): value for name, value in weights.items()}
    return named if len(named) == len(weights) else weights


def _prefixes(weights: Weights, own: Mapping[str, Tensor]) -> set[str]:
    """Return the prefixes that put the first or the last tensor of `own` into `weights`, and none."""
    anchors = list(own)[:1] + list(own)[-1:]
    found = {name[: -len(end)] for end in anchors for name in weights if name.endswith(f".{end}")}
    return {"", *found}


def _likelihood(prefix: str) -> tuple[bool, str]:
    """Order prefixes: none and the usual ones before those of averages, teachers and whatever else there is."""
    return prefix.partition(".")[0] not in ("", PARALLEL, *PLACES), prefix


def _fitting(weights: Weights, own: Mapping[str, Tensor], prefix: str = "") -> int:
    return sum(prefix + name in weights for name in own)
