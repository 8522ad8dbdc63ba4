"""The export of a run: choose backends, write the files, evaluate them in separate processes, compare, record."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from paredown import __version__
from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.deploy import DeployError
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.requests import Failure
from paredown.core.trust import trust
from paredown.cost import count
from paredown.cost.latency import device_name
from paredown.data.images import ImageData
from paredown.experiment.prepare import open_data
from paredown.export import certificate, folder, preparation
from paredown.export.certificate import Certificate, Entry
from paredown.export.check import Images
from paredown.export.entries import Reference, Writer
from paredown.export.files import FORMATS, Facts, Source
from paredown.export.onnx_engine import OnnxRuntime
from paredown.export.request import Request
from paredown.results.find import Trained, find
from paredown.runtime.optimise import OptimisedNetwork, build, optimise

log = logging.getLogger("paredown")


@dataclass(frozen=True)
class Exported:
    """A finished export: its folder, its certificate, and its version in MLflow's registry, if any."""

    folder: Path
    certificate: Certificate
    version: str | None = None


def export(request: Request) -> Exported:
    """Export as `request` specifies. Raise UserError for an invalid request, and Failure if a file is not equivalent to
    the trained network: the files and the certificate stay for inspection, but nothing is recorded or registered. A
    file in 8 bits that loses more than `max_drop` points is a UserError, and as little is recorded."""
    trust(request.trust)
    torch.set_num_threads(request.threads or torch.get_num_threads())
    trained = find(request.run, request.output, request.uri)
    if request.register and not trained.run_id:
        raise UserError(f"register={request.register} needs a run in MLflow, and {trained.name} has none recorded")
    dataset = _dataset(request, trained.config)
    data = _opened(dataset, trained.network)
    images = Images(dataset, request.split or data.eval_splits[0], request.trust)
    if not data.sizes[images.split]:
        raise UserError(f"split={images.split}: {data.name} holds out no image for it; give split=test")
    if request.quantize and not data.sizes["train"]:
        raise UserError(f"quantize=int8 is calibrated on training images, and {data.name} has none")
    place = request.folder or request.output / "exports" / trained.name
    folder.require_replaceable(place)
    sources = _sources(request, trained.network, _facts(trained, data))
    reference = Reference.of(trained.network, data, images.split)
    with folder.replacing(place) as new:
        entries = Writer(request, new, data, images, reference).entries(sources)
        prepared = preparation.difference(data, _facts(trained, data))
        made = _certificate(request, trained, images, reference, prepared, entries)
        folder.complete(new, made, trained.name)
    if not made.prepares_alike:
        raise Failure(f"usage.py prepares images otherwise than the evaluation: see {place / certificate.NAME}")
    if wrong := [FORMATS[name] for name, entry in entries.items() if not (entry.quantised or entry.equal)]:
        raise Failure(f"{', '.join(wrong)} is not equivalent to the trained network: see {place / certificate.NAME}")
    for entry in entries.values():
        _require_small_drop(entry, place, images.split)
    return Exported(place, made, folder.record(place, made, trained, request.register))


def _require_small_drop(entry: Entry, place: Path, split: str) -> None:
    if entry.accepted or entry.quantised is None:
        return
    lost = entry.quantised
    raise UserError(
        f"{entry.file} loses {lost.drop:.2f} points of top-1 on the {split} split ({lost.top1_before:.2f} % before, "
        f"{entry.top1:.2f} % after), more than max_drop={lost.max_drop:g}: give more calibration= images, allow more, "
        f"or leave quantize out. Nothing is recorded, see {place / certificate.NAME}"
    )


def _dataset(request: Request, config: Mapping[str, Any] | None) -> dict[str, Any]:
    if request.dataset:
        return dict(compose([f"dataset={request.dataset}", *_root(request)])["dataset"])
    if config is None:
        raise UserError(f"{request.run} does not name its dataset: give dataset=NAME (and dataset.root=FOLDER)")
    return dict(config["dataset"]) | ({"root": request.root} if request.root else {})


def _root(request: Request) -> list[str]:
    return [f"dataset.root={request.root}"] if request.root else []


def _opened(dataset: Mapping[str, Any], network: Network) -> ImageData:
    data = open_data(dataset)
    data.prepare()
    if tuple(data.input_shape) != tuple(network.input_shape):
        wanted, found = ("x".join(map(str, shape)) for shape in (network.input_shape, data.input_shape))
        raise UserError(f"the network takes images of {wanted}, those of {data.name} are {found}")
    return data


def _facts(trained: Trained, data: ImageData) -> Facts:
    facts: Facts = {"classes": list(data.class_names), "input": list(data.input_shape)}
    facts |= {"mean": list(data.mean), "std": list(data.std), "pixels": "(value / 255 - mean) / std, RGB, CHW"}
    facts |= {"scaled": list(data.scaled), "scaling": "bilinear, until it covers these height and width; centre cut"}
    facts |= {"experiment": trained.name, "run": trained.run_id, "paredown": __version__}
    return facts | trained.names


def _sources(request: Request, network: Network, facts: Facts) -> dict[str, tuple[Source, Source]]:
    """Return the network to write in each format and its dense counterpart, with backends that the format supports."""
    dense = blueprint.create(network.architecture, network.input_shape)
    dense.module.eval()
    plain = Source(dense, build(dense, {}), {}, facts)
    return {name: (_source(request, network, name, facts), plain) for name in request.format}


def _source(request: Request, network: Network, name: str, facts: Facts) -> Source:
    chosen = _optimised(request, network, name)
    return Source(network, chosen.module, chosen.choices, facts)


def _optimised(request: Request, network: Network, name: str) -> OptimisedNetwork:
    """Return the fastest form of `network` for what runs the format `name`: paredown, torch alone, or onnxruntime."""
    if request.deploy == "plain":
        return OptimisedNetwork(build(network, {}), {})
    log.info("choosing the form of each layer that is fastest for %s", FORMATS[name])
    engine = OnnxRuntime() if name == "onnx" else None
    try:
        return optimise(network, request.batch, portable=name != "torch", engine=engine)
    except DeployError as error:
        raise Failure(str(error)) from error


def _certificate(
    request: Request,
    trained: Trained,
    images: Images,
    reference: Reference,
    prepared: float,
    entries: dict[str, Entry],
) -> Certificate:
    network = trained.network
    dense = blueprint.create(network.architecture, network.input_shape)
    about: dict[str, Any] = {
        "experiment": trained.name,
        "run": trained.run_id,
        "deploy": request.deploy,
        "paredown": __version__,
    }
    about |= {
        "device": device_name(torch.device("cpu")),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    about |= {"input": list(network.input_shape), "classes": reference.logits.shape[1]}
    macs = [count(one.module, network.input_shape).macs for one in (network, dense)]
    compared = (images.split, len(reference.labels), request.tolerance, certificate.top1(*reference))
    return Certificate(about, dict(images.dataset), *compared, macs[0], macs[1], prepared, entries)
