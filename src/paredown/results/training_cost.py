"""The training cost of an experiment: what each stage of its plan took, whoever ran it."""

from __future__ import annotations

import json
from typing import Any

from paredown.core.plan import Edit, Fit
from paredown.cost import count
from paredown.experiment.budget import supplied_images
from paredown.experiment.experiment import Experiment, Step
from paredown.report.training_cost import UNITS

Row = dict[str, float]


def training_cost(experiment: Experiment) -> list[dict[str, Any]]:
    """Return for each stage of the plan its `key`, the training `images` it has seen, `other_images` (of searches,
    scoring, distillation and batch norms' recomputed statistics, and synthetic ones), `epochs` (all of these that it
    trained on / training images), `seconds` and training `macs`: images trained on x MACs of the network as that stage
    left it x 3, since a backward pass costs about two forward passes, for every pass of a step, of which hooks may add
    some, and the forward passes for the statistics. A stage whose state was deleted after a later one was made is left
    out."""
    return [_spent(experiment, step) for step in experiment.steps if experiment.store.has(step.key)]


def total(experiment: Experiment, spent: list[dict[str, Any]]) -> Row:
    """Sum `spent` to the metrics `price/...`, of which `price/compression_images` are the images of every kind after
    the plain training that a plan may begin with; none where a stage is missing from it."""
    if len(spent) < len(experiment.steps):
        return {}
    plain = [isinstance(step.stage, Fit) and not step.stage.hooks for step in experiment.steps]
    after = spent[plain.index(False) :] if False in plain else []
    found = {f"price/{name}": sum(stage[name] for stage in spent) for name in UNITS}
    return found | {"price/compression_images": sum(stage["images"] + stage["other_images"] for stage in after)}


def as_tag(spent: list[dict[str, Any]]) -> str:
    """Return `spent` as a tag of MLflow, which cuts one of more than 8,000 characters: those of about 70 stages."""
    rounded = [stage | {name: round(stage[name], 3) for name in ("seconds", "epochs")} for stage in spent]
    return json.dumps(rounded, separators=(",", ":"))


def _spent(experiment: Experiment, step: Step) -> dict[str, Any]:
    record = experiment.store.record(step.key)
    if isinstance(step.stage, Edit):
        scored = int(record.notes.get("images", 0))
        none = {"images": 0, "epochs": 0, "macs": 0}
        return {"key": step.key, "other_images": scored, "seconds": record.seconds} | none
    seen = experiment.images_seen(step)
    own = supplied_images(step.stage, step.data) is None
    norms = len(record.history) * min(step.stage.recipe.norm_images, step.data.sizes["train"])
    passes = 1 + sum(hook.extra_passes for hook in step.stage.hooks)
    network = experiment.store.read(step.key)
    return {
        "key": step.key,
        "images": seen if own else 0,
        "other_images": norms + (0 if own else seen),
        "epochs": seen / experiment.data.sizes["train"],
        "seconds": sum(row["seconds"] for row in record.history),  # of every process that had a part in it
        "macs": (3 * passes * seen + norms) * count(network.module, network.input_shape).macs,
    }
