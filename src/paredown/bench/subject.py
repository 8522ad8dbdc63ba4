"""What is timed: the network of a finished run, or one that is made for the purpose and never trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paredown import blueprint
from paredown.bench.request import Request
from paredown.config import compose
from paredown.data.cache import Pixels
from paredown.data.images import Contents, ImageData
from paredown.data.loaders import MemoryImages
from paredown.errors import UserError, nearest
from paredown.experiment import Experiment, prepare
from paredown.plan import Context, Edit, Network
from paredown.trained import Trained, find

SHAPES = {  # channels, height, width and classes of the data sets whose images need not be there
    "digits": (1, 8, 8, 10),
    "cifar10": (3, 32, 32, 10),
    "cifar100": (3, 32, 32, 100),
    "svhn": (3, 32, 32, 10),
    "tiny_imagenet": (3, 64, 64, 200),
    "imagenet": (3, 224, 224, 1000),
}
IMAGES = 512


@dataclass(frozen=True)
class Subject:
    """The `network` to deploy and time beside the `dense` one of its architecture; `trained` where it was."""

    name: str
    network: Network
    dense: Network
    trained: Trained | None = None


class Noise(ImageData):
    """Random images in the shape of a data set: enough to make a network, without downloading anything."""

    def open(self) -> Contents:
        """A few images, drawn from a fixed seed."""
        channels, height, width, classes = SHAPES[self.name]
        draw = np.random.default_rng(0)
        images = draw.integers(0, 256, (IMAGES, height, width, channels), np.uint8)
        stored = MemoryImages(Pixels(images, np.arange(IMAGES) % classes))
        return Contents(tuple(map(str, range(classes))), (channels, height, width), stored, stored, "noise")


def subject(request: Request) -> Subject:
    """What `request` names. UserError where it cannot be made or found."""
    if request.run:
        trained = find(request.run, request.output, request.uri)
        return Subject(trained.name, trained.network, _dense(trained.network), trained)
    words = [*request.overrides, f"output={request.output}", "tracking=off"]
    experiment = prepare(compose(words), _noise)
    network = _edited(experiment)
    return Subject(experiment.folder.name.rpartition("-")[0], network, _dense(network))


def _dense(network: Network) -> Network:
    dense = blueprint.create(network.architecture, network.input_shape)
    dense.module.eval()
    return dense


def _noise(config: Mapping[str, Any]) -> ImageData:
    if config["name"] not in SHAPES:
        raise UserError(
            f"dataset {config['name']!r} has no fixed image size to time: {nearest(config['name'], SHAPES)}"
        )
    common = {name: config[name] for name in ("name", "mean", "std", "cache")}
    data = Noise(**common)
    data.prepare()
    return data


def _edited(experiment: Experiment) -> Network:
    """The network after the plan's edits, without its trainings: the shapes are those of the experiment, up to what an
    edit decides by trained weights."""
    network = experiment.dense()
    for step in experiment.steps:
        if isinstance(step.stage, Edit):
            context = Context(step.data, experiment.device, step.seed)
            step.stage.function(network, context, **step.stage.arguments)
    network.module.eval()
    return network
