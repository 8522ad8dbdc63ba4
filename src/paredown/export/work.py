"""The way of an export: find the network, choose how it runs, write, read back elsewhere, compare, record."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paredown import __version__, blueprint, execution
from paredown.command import Failure
from paredown.config import compose
from paredown.cost import count
from paredown.cost.latency import device_name
from paredown.data.images import ImageData
from paredown.errors import UserError
from paredown.experiment import open_data
from paredown.export import certificate, folder
from paredown.export.certificate import Certificate, Entry
from paredown.export.check import BATCH, Images, in_fresh_process
from paredown.export.files import FORMATS, Facts, Source, format_of, size
from paredown.export.request import Request
from paredown.plan import Network
from paredown.surgery.deploy import DeployError
from paredown.trained import Trained, find

log = logging.getLogger("paredown")


@dataclass(frozen=True)
class Exported:
    """A finished export: where it lies, its certificate, and the version it has in MLflow's registry, if any."""

    folder: Path
    certificate: Certificate
    version: str | None = None


class Reference(NamedTuple):
    """Logits (N, classes) of the network as it was trained, and the labels (N,) of the images."""

    logits: Tensor
    labels: Tensor

    @classmethod
    @torch.inference_mode()
    def of(cls, network: Network, data: ImageData, split: Any) -> Reference:
        """Over every image of `split` of `data`."""
        module = network.module.eval()
        found = [(module(images), labels) for images, labels in data.eval_loader(split, BATCH, "cpu")]
        return cls(torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found]))


def export(request: Request) -> Exported:
    """Write what `request` asks for. UserError for what is wrong with it; Failure where a file computes something else
    than the trained network: it stays with its certificate to be looked at, and nothing is recorded or registered."""
    torch.set_num_threads(request.threads or torch.get_num_threads())
    trained = find(request.run, request.output, request.uri)
    if request.register and not trained.run_id:
        raise UserError(f"register={request.register} needs a run in MLflow, and {trained.name} has none recorded")
    dataset = _dataset(request, trained.config)
    data = _opened(dataset, trained.network)
    images = Images(dataset, request.split or data.eval_splits[0])
    if not data.sizes[images.split]:
        raise UserError(f"split={images.split}: {data.name} holds out no image for it; give split=test")
    place = request.folder or request.output / "exports" / trained.name
    sources = _sources(request, trained.network, _facts(trained, data))
    reference = Reference.of(trained.network, data, images.split)
    entries = _entries(request, place, sources, images, reference)
    made = _certificate(request, trained, images, reference, entries)
    folder.complete(place, made, trained.name)
    if not made.equal:
        wrong = ", ".join(FORMATS[name] for name, entry in entries.items() if not entry.equal)
        raise Failure(f"{wrong} computes something else than the trained network: see {place / certificate.NAME}")
    return Exported(place, made, folder.record(place, made, trained, request.register))


def _dataset(request: Request, config: Mapping[str, Any] | None) -> dict[str, Any]:
    if request.dataset:
        return dict(compose([f"dataset={request.dataset}", *_root(request)])["dataset"])
    if config is None:
        raise UserError(f"{request.run} does not tell its images: give dataset=NAME (and dataset.root=FOLDER)")
    return dict(config["dataset"]) | ({"root": request.root} if request.root else {})


def _root(request: Request) -> list[str]:
    return [f"dataset.root={request.root}"] if request.root else []


def _opened(dataset: Mapping[str, Any], network: Network) -> ImageData:
    data = open_data(dataset)
    if tuple(data.input_shape) != tuple(network.input_shape):
        wanted, found = ("x".join(map(str, shape)) for shape in (network.input_shape, data.input_shape))
        raise UserError(f"the network takes images of {wanted}, those of {data.name} are {found}")
    return data


def _facts(trained: Trained, data: ImageData) -> Facts:
    facts: Facts = {"classes": list(data.class_names), "input": list(data.input_shape)}
    facts |= {"mean": list(data.mean), "std": list(data.std), "pixels": "(value / 255 - mean) / std, RGB, CHW"}
    facts |= {"experiment": trained.name, "run": trained.run_id, "paredown": __version__}
    return facts | trained.names


def _sources(request: Request, network: Network, facts: Facts) -> dict[str, tuple[Source, Source]]:
    """For each format what is written, and its dense counterpart, in the forms that run there."""
    dense = blueprint.create(network.architecture, network.input_shape)
    dense.module.eval()
    made: dict[bool, tuple[Source, Source]] = {}
    for portable in {name != "torch" for name in request.formats}:
        chosen = _execution(request, network, portable)
        plain = Source(dense, execution.build(dense, {}), {}, facts)
        made[portable] = Source(network, chosen.module, chosen.choices, facts), plain
    return {name: made[name != "torch"] for name in request.formats}


def _execution(request: Request, network: Network, portable: bool) -> execution.Execution:
    if request.deploy == "plain":
        return execution.Execution(execution.build(network, {}), {})
    log.info("choosing the form of each layer%s", " for ONNX and torch.export" if portable else "")
    try:
        return execution.optimise(network, request.batch, portable=portable)
    except DeployError as error:
        raise Failure(str(error)) from error


def _entries(
    request: Request, place: Path, sources: Mapping[str, tuple[Source, Source]], images: Images, reference: Reference
) -> dict[str, Entry]:
    folder.clear(place)
    entries = {}
    for name, (source, dense) in sources.items():
        path = place / FORMATS[name]
        log.info("writing %s", path)
        format_of(name).write(source, path, request.opset)
        dense_bytes = _dense_bytes(name, dense, request.opset)
        log.info("reading it in a process of its own, over %d images", len(reference.labels))
        found = in_fresh_process(name, path, images)
        entries[name] = certificate.compare(path, found, dense_bytes, *reference, request.tolerance)
    return entries


def _dense_bytes(name: str, dense: Source, opset: int | None) -> int:
    with TemporaryDirectory() as place:
        path = Path(place) / FORMATS[name]
        format_of(name).write(dense, path, opset)
        return size(path)


def _certificate(
    request: Request, trained: Trained, images: Images, reference: Reference, entries: dict[str, Entry]
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
    return Certificate(about, dict(images.dataset), *compared, macs[0], macs[1], entries)
