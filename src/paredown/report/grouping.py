"""Grouping of runs into settings: runs that differ only in their seed, labelled by the hyperparameters that vary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from paredown.core.keys import setting

if TYPE_CHECKING:
    from mlflow.entities import Run

CONTROL = "control"
LABELLED_APART = ("sparsity", "speed_up", CONTROL)  # parameters that a label shows by their tags


def identity(run: Run) -> str:
    """Return a text that is the same for runs that differ only in their seed and in how they ran (`keys.setting`)."""
    return json.dumps(setting(run.data.params), sort_keys=True)


def controlled(run: Run) -> str:
    """Return the `identity` of the runs that `run` is a control of."""
    params = {name: value for name, value in setting(run.data.params).items() if name != CONTROL}
    return json.dumps(params, sort_keys=True)


def varied(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return for each method the parameters of the identity in which its runs differ."""
    found: dict[str, list[str]] = {}
    for method in {run.data.tags.get("method", "") for run in runs}:
        every = [setting(run.data.params) for run in runs if run.data.tags.get("method", "") == method]
        names = sorted({name for params in every for name in params})
        found[method] = [name for name in names if len({params.get(name) for params in every}) > 1]
    return found


def label(run: Run, varied: dict[str, list[str]]) -> str:
    """Return the method, the target, and the hyperparameters that distinguish `run` from others of its method."""
    tags, params = run.data.tags, setting(run.data.params)
    method = tags.get("method", "")
    target = [tags["target"]] if tags.get("target", "none") != "none" else []
    names = [name for name in varied[method] if name not in LABELLED_APART and name in params]
    model = [tags.get("model", "")] if any(name.startswith("model.") for name in names) else []
    values = [f"{name.rpartition('.')[2]}={params[name]}" for name in names if not name.endswith("_target_")]
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
