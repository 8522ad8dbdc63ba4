"""Which runs are one setting, and what it is called: all its parameters but the seed, told by those that vary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities import Run

# Parameters that do not make another setting: where and in which form it ran, what it was called, and the seed.
PLACES = ("output", "store", "trainer.", "tracking.", "dataset.root", "dataset.cache")
ELSEWHERE = (*PLACES, "seed", "names.", "latency.seconds", "method.packed")
TOLD = ("sparsity", "speed_up", "control")  # in words of their own
CONTROL = "control"
UNSAID = {
    "deploy": "plain",
    "method.search.by": "gradient",
    "method.search.number": "0",
}  # what a parameter was before there was a choice


def identity(run: Run) -> str:
    """The same text for two runs that differ in their seed and in where they ran alone. A parameter that is null, or
    UNSAID, is as one that an older version did not have."""
    return json.dumps(_told(run), sort_keys=True)


def _told(run: Run) -> dict[str, str]:
    params = {name: value for name, value in run.data.params.items() if not name.startswith(ELSEWHERE)}
    return {name: value for name, value in params.items() if value not in ("null", UNSAID.get(name))}


def controlled(run: Run) -> str:
    """The `identity` of what `run` is the control of."""
    return json.dumps({k: v for k, v in json.loads(identity(run)).items() if k != CONTROL}, sort_keys=True)


def varied(runs: Sequence[Run]) -> dict[str, list[str]]:
    """For each method the parameters in which its runs differ, apart from those of ELSEWHERE."""
    found: dict[str, list[str]] = {}
    for method in {run.data.tags.get("method", "") for run in runs}:
        own = [_told(run) for run in runs if run.data.tags.get("method", "") == method]
        names = sorted({name for params in own for name in params})
        found[method] = [name for name in names if len({params.get(name) for params in own}) > 1]
    return found


def label(run: Run, varied: dict[str, list[str]]) -> str:
    """The method, the target, and the knobs that tell the run from others of its method."""
    tags, params = run.data.tags, run.data.params
    method = tags.get("method", "")
    target = [tags["target"]] if tags.get("target", "none") != "none" else []
    names = [name for name in varied[method] if name not in TOLD and params.get(name) is not None]
    model = [tags.get("model", "")] if any(name.startswith("model.") for name in names) else []
    knobs = [f"{name.rpartition('.')[2]}={params[name]}" for name in names if not name.endswith("_target_")]
    control = [f"{CONTROL}={tags[CONTROL]}"] if tags.get(CONTROL) else []
    return " ".join([method, *model, *target, *knobs, *control])


def labels(labels: dict[str, str]) -> dict[str, str]:
    """Settings that read alike get a number."""
    seen: Counter[str] = Counter()
    total = Counter(labels.values())
    unique = {}
    for identity, label in labels.items():
        seen[label] += 1
        unique[identity] = f"{label} #{seen[label]}" if total[label] > 1 else label
    return unique
