"""Identity: what names a stage, a result and a setting, and what merely says how a run was carried out.

A key is a hash of names and versions (never of a file's path), of the values that differ from their defaults, and of
whatever of the machine changes the result. So a moved file and a new setting with a default change no key; a changed
computation raises a version and changes its own keys alone. `tests/golden/keys.json` pins the keys of every method.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, TypeVar

from paredown.core.kinds import KINDS
from paredown.core.legacy import current_target

KEY_FORMAT = 3  # of the keys themselves; what stages compute has versions of its own
HOW_IT_RAN = MappingProxyType({"identity": False})  # metadata of a field that changes a result by rounding at most
IDENTITY = "__paredown_identity__"
Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Identity:
    """The stable name of a stage function, hook, value class or model builder, and the version of what it computes.

    `kinds` are the layer kinds that a stage function builds; `counts` is False for a hook that is no part of a key, and
    `unkeyed` are arguments of a model builder that say where something is, and not what it is.
    """

    name: str
    version: int
    kinds: tuple[str, ...]
    counts: bool
    unkeyed: tuple[str, ...] = ()

    def __str__(self) -> str:
        return versioned(self.name, self.version)


def identity(
    name: str, version: int = 1, *, kinds: Sequence[str] = (), counts: bool = True, unkeyed: Sequence[str] = ()
) -> Callable[[Thing], Thing]:
    """Give a stage function, hook, value class or model builder its identity, as a decorator.

    Raise `version` when the same values, or a default, come to mean another computation: stored results of older
    versions are then not found any more. `tests/golden/defaults.json` pins the defaults. `counts=False` is for a hook
    whose fit gives the same network but for rounding.
    """

    def attach(thing: Thing) -> Thing:
        setattr(thing, IDENTITY, Identity(name, version, tuple(kinds), counts, tuple(unkeyed)))
        return thing

    return attach


def identity_of(thing: Any) -> Identity:
    """Return the identity of a function or class. Raise TypeError where `@identity` gave it none."""
    found = vars(thing).get(IDENTITY)  # of its own: a subclass computes something else
    if found is None:
        raise TypeError(f"{thing.__module__}.{thing.__qualname__} has no name for keys: decorate it with @identity")
    return found


def versioned(name: str, version: int) -> str:
    """Return `name`, with its version from the second on."""
    return name if version == 1 else f"{name}@{version}"


def digest(value: Any) -> str:
    """Hash `value`, plain data and whatever has an identity, to 20 hex digits that are equal on any machine."""
    text = json.dumps(identified(value), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def identified(value: Any) -> Any:
    """Reduce `value` to the plain data that identifies it: fields at their default and HOW_IT_RAN are left out.

    Raise TypeError for a function or a dataclass without an identity, and for anything that is no plain data.
    """
    if isinstance(value, type) or inspect.isfunction(value):
        return str(identity_of(value))
    if is_dataclass(value) and not isinstance(value, type):
        own = identity_of(type(value))
        parts = {f.name: _part(value, f) for f in fields(value) if f.init and f.metadata.get("identity", True)}
        defaults = _defaults(type(value))
        return {"is": str(own)} | {k: part for k, part in parts.items() if k not in defaults or part != defaults[k]}
    if isinstance(value, Mapping):
        return {str(key): identified(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [identified(item) for item in value if not is_dataclass(item) or identity_of(type(item)).counts]
    plain = _plain(value)
    return int(plain) if isinstance(plain, float) and plain.is_integer() else plain  # 2.0 is the same value as 2


def described(value: Any) -> Any:
    """Return `value` whole as plain JSON data, for a person to read: fields at their default too."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"is": _label(type(value))} | {
            f.name: described(getattr(value, f.name)) for f in fields(value) if f.init
        }
    if callable(value):
        return _label(value)
    if isinstance(value, Mapping):
        return {str(key): described(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [described(item) for item in value]
    return _plain(value)


def without_defaults(function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the `arguments` of a call of `function` that differ from the defaults of its parameters."""
    parameters = inspect.signature(function).parameters
    defaults = {name: item.default for name, item in parameters.items() if item.default is not item.empty}
    return {
        name: value
        for name, value in arguments.items()
        if name not in defaults or identified(defaults[name]) != identified(value)
    }


def kind_versions(kinds: Sequence[str]) -> dict[str, int]:
    """Return the versions of layer `kinds` that are past their first."""
    return {kind: KINDS[kind].version for kind in kinds if KINDS[kind].version > 1}


def stage_key(stage: Any, parent: str, seed: int, data: str, regime: Mapping[str, Any] | None = None) -> str:
    """Return the key of `stage` run after `parent` (a stage's key, or `root_key`) on the data set of key `data`.

    `regime` is what of the machine changes the result (`rank_regime`).
    """
    whole = {"format": KEY_FORMAT, "stage": stage, "parent": parent, "seed": seed, "data": data}
    return digest(whole | ({"regime": regime} if regime else {}))


def rank_regime(ranks: int, sync_batchnorm: bool) -> dict[str, Any]:
    """Return what of the processes of a fit changes the network it gives.

    On several ranks batch norm takes its statistics over each rank's share of a batch, unless it is synchronised; a
    last batch too small to share is dropped, uneven shares weigh alike, and dropout draws differ.
    """
    return {} if ranks == 1 else {"ranks": ranks, "sync_batchnorm": sync_batchnorm}


def root_key(
    builder: Callable[..., Any], arguments: Mapping[str, Any], input_shape: Sequence[int], weights: str | None
) -> str:
    """Return the key that a plan starts from: the model `builder` with `arguments` for images of `input_shape`, and the
    SHA-256 of the pretrained `weights` (None: random ones)."""
    keyed = {name: value for name, value in arguments.items() if name not in identity_of(builder).unkeyed}
    return digest([identity_name(builder), without_defaults(builder, keyed), list(input_shape), weights])


def result_key(last_stage: str, data: str, latency: Any, deploy: str, control_of: str | None) -> str:
    """Return the key of an experiment's result: its last state, how it is timed and deployed, what it controls."""
    extra = [] if deploy == "plain" else [deploy]
    return digest([last_stage, data, latency, *extra, *([control_of] if control_of else [])])


def identity_name(thing: Any) -> str:
    """Return the name and version of a function or class."""
    return str(identity_of(thing))


# Recorded parameters (MLflow, flattened) that make no other setting: where and in which form it ran, and the seed.
RAN_PARAMETERS = (
    *("output", "store", "trainer.", "tracking.", "dataset.root", "dataset.cache", "seed", "names.", "trust"),
    *("dataset.workers", "progress", "latency.seconds", "method.packed", "recipe.channels_last", "recipe.compile"),
)
# What a parameter that an older version did not record stood at.
UNRECORDED = {
    **{"deploy": "plain", "model.head": "keep", "budget.reference": "160", "recipe.warmup": "0.2"},
    "recipe.norm_images": "0",
    **{"method.search.by": "gradient", "method.search.number": "0"},  # svd_nas
    **{"method.interspace": "false", "method.basis": "standard"},  # snip, grasp, synflow
    "method.rounds": "1",  # magnitude; of another method, one round is left out in all its runs
}
# Parameters that say where something is, and the one that says what it is, which older versions did not record.
LOCATED = {"model.source": "model.digest", "model.weights": "model.weights_digest"}
RANKS = ("trainer.devices", "trainer.nodes", "trainer.sync_batchnorm")


def setting(parameters: Mapping[str, str]) -> dict[str, str]:
    """Return of a run's recorded `parameters` those that make its setting: equal for two runs that differ in their seed
    and in how they ran alone. A parameter that is null, or UNRECORDED, is left out like one not yet invented."""
    found = {name: value for name, value in parameters.items() if not name.startswith(RAN_PARAMETERS)}
    for place in [place for place, what in LOCATED.items() if found.get(what, "null") != "null"]:
        found.pop(place, None)
    found = {name: current_target(value) if name.endswith("_target_") else value for name, value in found.items()}
    return _regime(parameters) | {
        name: value for name, value in found.items() if value not in ("null", UNRECORDED.get(name))
    }


def _regime(parameters: Mapping[str, str]) -> dict[str, str]:
    devices, nodes, synchronised = (parameters.get(name, default) for name, default in zip(RANKS, "11f", strict=True))
    regime = rank_regime(int(devices) * int(nodes), synchronised.lower() == "true")
    return {f"regime.{name}": str(value) for name, value in regime.items()}


@cache
def _defaults(kind: type[Any]) -> dict[str, Any]:
    """Return the identified defaults of the fields of the dataclass `kind` that have one."""
    found = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(kind)}
    return {name: identified(default) for name, default in found.items() if default is not MISSING}


def _part(value: Any, field: Field[Any]) -> Any:
    """Reduce a field by the method `identified_NAME` of its class where there is one."""
    reduce = getattr(value, f"identified_{field.name}", None)
    return identified(getattr(value, field.name)) if reduce is None else reduce()


def _label(thing: Any) -> str:
    found = vars(thing).get(IDENTITY)
    return str(found) if found else f"{thing.__module__}.{thing.__qualname__}"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a stage holds plain values only, got {value!r} of {type(value).__name__}")
