"""Grouping of runs into settings: runs that differ only in their seed, labelled by the hyperparameters that vary."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from paredown.core.keys import setting
from paredown.core.target_metrics import TARGETS

KEY_DIGITS = 20
CONTROL = "control"
LABELLED_APART = (*TARGETS, CONTROL)  # parameters that a label shows by their tags


@dataclass(frozen=True)
class Described:
    """The tags of a run, and the parameters of its setting (`keys.setting`)."""

    tags: Mapping[str, str]
    parameters: Mapping[str, str]


def described(tags: Mapping[str, str], recorded: Mapping[str, str]) -> Described:
    """Describe a run by its tags and its `recorded` parameters."""
    return Described(tags, setting(recorded))


def identity(run: Described) -> str:
    """Return a text that is the same for runs that differ only in their seed and in how they ran."""
    return json.dumps(run.parameters, sort_keys=True)


def key(identity: str) -> str:
    """Return the digest of an `identity`, the same in every report."""
    return hashlib.sha256(identity.encode()).hexdigest()[:KEY_DIGITS]


def controlled(run: Described) -> str:
    """Return the `identity` of the runs that `run` is a control of."""
    return json.dumps({name: value for name, value in run.parameters.items() if name != CONTROL}, sort_keys=True)


def varied(runs: Sequence[Described]) -> dict[str, list[str]]:
    """Return for each method the parameters of the setting in which its runs differ."""
    found: dict[str, list[str]] = {}
    for method in {run.tags.get("method", "") for run in runs}:
        every = [run.parameters for run in runs if run.tags.get("method", "") == method]
        names = sorted({name for parameters in every for name in parameters})
        found[method] = [name for name in names if len({parameters.get(name) for parameters in every}) > 1]
    return found


def label(run: Described, varied: Mapping[str, list[str]]) -> str:
    """Return the method, the target, and the hyperparameters that distinguish `run` from others of its method."""
    tags, parameters = run.tags, run.parameters
    method = tags.get("method", "")
    target = [tags["target"]] if tags.get("target", "none") != "none" else []
    names = [name for name in varied[method] if name not in LABELLED_APART and name in parameters]
    model = [tags.get("model", "")] if any(name.startswith("model.") for name in names) else []
    values = [f"{name.rpartition('.')[2]}={parameters[name]}" for name in names if not name.endswith("_target_")]
    control = [f"{CONTROL}={tags[CONTROL]}"] if tags.get(CONTROL) else []
    return " ".join([method, *model, *target, *values, *control])


def labels(labels: dict[str, str]) -> dict[str, str]:
    """Append a number to equal labels among `labels` (by identity), so that each setting has another."""
    seen: Counter[str] = Counter()
    total = Counter(labels.values())
    unique = {}
    for identity, label in labels.items():
        seen[label] += 1
        unique[identity] = f"{label} #{seen[label]}" if total[label] > 1 else label
    return unique
