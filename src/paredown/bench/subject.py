"""The network to time: that of a finished run, or an untrained one made by a method's edits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paredown.bench.request import Request
from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError, nearest
from paredown.core.hooks import Context, nothing_earlier
from paredown.core.network import Network
from paredown.core.plan import Edit
from paredown.core.trust import trust
from paredown.data.cache import Pixels
from paredown.data.images import Contents, ImageData
from paredown.data.known import KNOWN
from paredown.data.loaders import MemoryImages
from paredown.experiment.experiment import Experiment
from paredown.experiment.prepare import prepare
from paredown.results.find import Trained, find

IMAGES = 512


@dataclass(frozen=True)
class Subject:
    """The `network` to deploy and time against the `dense` one of its architecture; `trained` if it is of a run."""

    name: str
    network: Network
    dense: Network
    trained: Trained | None = None


class Noise(ImageData):
    """Random images in the shape of a dataset, so that nothing is downloaded."""

    def open(self) -> Contents:
        """Draw IMAGES images from a fixed seed."""
        (channels, height, width), classes = KNOWN[self.name].shape, KNOWN[self.name].classes
        draw = np.random.default_rng(0)
        images = draw.integers(0, 256, (IMAGES, height, width, channels), np.uint8)
        stored = MemoryImages(Pixels(images, np.arange(IMAGES) % classes))
        return Contents(tuple(map(str, range(classes))), (channels, height, width), stored, stored, "noise")


def subject(request: Request) -> Subject:
    """Find or make the network that `request` names. Raise UserError if that is not possible."""
    trust(request.trust)
    if request.run:
        trained = find(request.run, request.output, request.uri)
        return Subject(trained.name, trained.network, _dense(trained.network), trained)
    # nothing is trained, so that the precision is not to be found out
    words = ["recipe.precision=32", *request.overrides, f"output={request.output}", "tracking=off"]
    experiment = prepare(compose(words), _noise)
    network = _edited(experiment)
    return Subject(experiment.folder.name.rpartition("-")[0], network, _dense(network))


def _dense(network: Network) -> Network:
    dense = blueprint.create(network.architecture, network.input_shape)
    dense.module.eval()
    return dense


def _noise(config: Mapping[str, Any]) -> ImageData:
    if config["name"] not in KNOWN:
        raise UserError(f"dataset {config['name']!r} has no fixed image size to time: {nearest(config['name'], KNOWN)}")
    common = {name: config[name] for name in ("name", "mean", "std", "cache")}
    data = Noise(**common)
    data.prepare()
    return data


def _edited(experiment: Experiment) -> Network:
    """Apply the plan's edits to an untrained network. Its shapes are those of the experiment, except where an edit
    depends on trained weights."""
    network = experiment.dense()
    left: dict[str | None, Network] = {None: copy.deepcopy(network)}

    def earlier(name: str | None) -> Network:
        return copy.deepcopy(left[name]) if name in left else nothing_earlier(name)

    for step in experiment.steps:
        if isinstance(step.stage, Edit):
            context = Context(step.data, experiment.device, step.seed, earlier=earlier)
            step.stage.function(network, context, **step.stage.arguments)
        left[step.stage.name] = copy.deepcopy(network)
    network.module.eval()
    return network
