"""Functions on networks: what they cost, how fast they run, and how they are stored and shipped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from paredown.api.modules import checked_shape
from paredown.api.report import Report
from paredown.core import blueprint
from paredown.core.deploy import deploy, relative_difference
from paredown.core.errors import UserError, named_reason, nearest
from paredown.core.files import reading, typed_path
from paredown.core.modes import evaluating
from paredown.core.network import Network
from paredown.core.requests import Failure
from paredown.core.trust import trusting
from paredown.cost import Cost
from paredown.cost import count as counted
from paredown.cost.latency import Latency, LatencySettings, measure
from paredown.export.files import FORMATS, QUANTIZED, Source, format_of, reader_of
from paredown.export.request import MAX_DROP, require_int8_opset
from paredown.models.live import copied, give
from paredown.runtime.optimise import build

BATCH, CALIBRATED = 8, 64  # images that an export is compared on; images calibrated at once
TOLERANCE = 1e-4  # the largest difference, as a share of the largest logit

__all__ = ["compare_latency", "count", "deploy", "export", "load"]


def count(module: nn.Module, input_shape: Sequence[int]) -> Cost:
    """Count multiply-adds, parameters and weights of `module` for one image of `input_shape`, without the batch
    (`cost.count`). Raise UserError for what is no module, no shape, or a shape that it does not take.

    >>> import torch, paredown
    >>> paredown.count(torch.nn.Conv2d(3, 8, 3), (3, 8, 8)).macs
    7776
    """
    _require_module(module, "module")
    return counted(module, tuple(_sizes(input_shape, "input_shape")))


def compare_latency(
    dense: nn.Module, small: nn.Module, shape: Sequence[int], *, seconds: float = 4.0, threads: int | None = None
) -> Latency:
    """Time `dense` and `small`, both deployed, in turns on a batch of `shape` (images, channels, height, width) for
    about `seconds`. Raise UserError for another shape.

    >>> import torch, paredown
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Flatten(), torch.nn.LazyLinear(10))
    >>> _ = net(torch.zeros(1, 3, 8, 8))
    >>> paredown.compare_latency(net, net, (4, 3, 8, 8), seconds=0.05).ms > 0
    True
    """
    _require_module(dense, "dense")
    _require_module(small, "small")
    if len(_sizes(shape, "shape")) != 4:
        raise UserError(f"shape={tuple(shape)} is not (images, channels, height, width)")
    settings = LatencySettings(batch=shape[0], threads=threads, seconds=seconds)
    place = next((tensor.device for tensor in small.parameters()), torch.device("cpu"))
    kinds = [_kind(one) for one in (small, dense)]
    if kinds[0] != kinds[1]:
        raise UserError(f"small is {kinds[0]} and dense {kinds[1]}: compare networks of one dtype")
    images = _noise(*shape).to(place, kinds[0]).contiguous(memory_format=torch.channels_last)
    pair = [deploy(one).to(place).to(memory_format=torch.channels_last) for one in (small, dense)]
    for one in pair:
        _require_running(one, images)
    return measure((pair[0], images), (pair[1], images), settings)


def load(
    folder: str | Path, network: nn.Module | None = None, trust: str | Path | Iterable[str | Path] = ()
) -> nn.Module:
    """Read the network of a state, or of an export's `torch` folder, in eval mode. `network` is a module of the same
    architecture where it was given as a live module. `trust` has the file, or the module, of code that the state names
    and that may be run, for this call alone. Raise UserError for a folder that holds none, or code without trust."""
    if network is not None:
        if not isinstance(network, nn.Module):
            raise UserError(f"network={network!r:.40} is no nn.Module of the architecture")
        give(network)
    with trusting(trust):
        return blueprint.load(_path(folder, "folder"))


def export(
    module: nn.Module,
    folder: str | Path,
    *,
    formats: Sequence[str] = ("onnx", "program"),
    input_shape: tuple[int, int, int] | None = None,
    classes: Sequence[str] = (),
    opset: int | None = None,
    quantize: Literal["int8"] | None = None,
    calibration: Tensor | None = None,
    max_drop: float = MAX_DROP,
) -> dict[str, Path]:
    """Write `module`, deployed, into `folder` and return the path of each format. Every file is read again and compared
    with the module on random images: raise Failure where it computes something else, UserError for a wrong request.

    `quantize="int8"` adds a file in 8 bits, made of the ONNX one with `calibration`: training images (N, C, H, W) as
    the network takes them. UserError where more than `max_drop` percent of them change class, which is at least what
    is lost of top-1 there.

    >>> import tempfile, torch, paredown
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paredown.export(net, folder, formats=["program"], input_shape=(3, 8, 8))["program"].name
    'model.pt2'
    """
    _require_module(module, "module")
    report: Any = getattr(module, "report", None)
    wanted = input_shape or (report.input_shape if isinstance(report, Report) else None)
    if wanted is None:
        raise UserError("input_shape=(channels, height, width) is needed for a module that compress did not make")
    shape = checked_shape(wanted)
    if isinstance(formats, str) or not formats:
        raise UserError(f"formats={formats!r} is no list of formats, as ['onnx']: {nearest('', [*FORMATS])}")
    network = _network(module, shape, report)
    _require_running(network.module, _noise(BATCH, *shape))
    if quantize is not None:
        _require_quantisable(quantize, formats, calibration, max_drop, shape)
        require_int8_opset(opset)
    elif calibration is not None:
        raise UserError("calibration= is of quantize='int8': give both, or neither")
    place = _path(folder, "folder")
    with reading(place, "choose another folder"):
        place.mkdir(parents=True, exist_ok=True)
    source = Source(network, build(network, {}), {}, {"classes": list(classes), "input": list(shape)})
    written = {}
    for name in formats:
        kind, path = format_of(name), place / FORMATS.get(name, name)
        if name == "torch" and network.architecture[blueprint.TARGET].endswith(".live.live"):
            raise UserError("format torch names the architecture, and this one is a live module: take program or onnx")
        kind.write(source, path, opset)
        _require_equal(network, kind.load(path).run, path)
        written[name] = path
    if calibration is not None and quantize:
        written[quantize] = _quantised(network, source, written["onnx"], calibration, max_drop)
    return written


def _require_quantisable(
    quantize: str, formats: Sequence[str], calibration: Tensor | None, max_drop: float, shape: tuple[int, int, int]
) -> None:
    if quantize not in QUANTIZED:
        raise UserError(f"quantize={quantize!r}: {nearest(str(quantize), QUANTIZED)}")
    if "onnx" not in formats:
        raise UserError(f"quantize={quantize!r} is made of the ONNX file: add 'onnx' to formats")
    if not isinstance(calibration, Tensor) or calibration.shape[1:] != shape or not len(calibration):
        found = tuple(calibration.shape) if isinstance(calibration, Tensor) else type(calibration).__name__
        raise UserError(f"calibration are training images (N, {', '.join(map(str, shape))}), not {found}")
    if not 0 <= max_drop < math.inf:
        raise UserError(f"max_drop={max_drop}: at least 0, a finite number of percent")


def _quantised(network: Network, source: Source, exported: Path, images: Tensor, max_drop: float) -> Path:
    from paredown.export import int8_file

    images = images.detach().cpu().float()
    path = exported.with_name(QUANTIZED["int8"])
    int8_file.write(exported, path, images.split(CALIBRATED), source.facts)
    run = reader_of("int8").load(path).run
    with torch.inference_mode():
        changed = [run(part).argmax(1) != network.module(part).argmax(1) for part in images.split(CALIBRATED)]
    share = 100 * float(torch.cat(changed).double().mean())
    if share > max_drop:
        path.unlink()
        raise UserError(f"in 8 bits {share:.2f} % of the images change class, more than max_drop={max_drop:g}")
    return path


def _network(module: nn.Module, shape: tuple[int, int, int], report: Any) -> Network:
    plain = copied(module).float()
    if isinstance(report, Report):
        return Network(plain, dict(report.architecture), shape, {k: dict(v) for k, v in report.blueprint.items()})
    return Network(plain, give(module), shape)


def _require_module(module: object, what: str) -> None:
    if not isinstance(module, nn.Module):
        raise UserError(f"{what}={module!r:.40} is no nn.Module")


def _sizes(shape: Any, what: str) -> Sequence[int]:
    """Return `shape`. Raise UserError unless it is a sequence of whole numbers from 1 on."""
    found = isinstance(shape, tuple | list | torch.Size) and all(isinstance(size, int) and size > 0 for size in shape)
    if not found or not shape:
        raise UserError(f"{what}={shape!r:.60} is no shape, as (3, 224, 224)")
    return tuple(shape)


def _path(folder: Any, what: str) -> Path:
    if not isinstance(folder, str | Path):
        raise UserError(f"{what}={folder!r:.40} is no path")
    return typed_path(folder)


def _kind(module: nn.Module) -> torch.dtype:
    """Return the type of the numbers that `module` computes in."""
    return next((tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()), torch.float32)


def _noise(*shape: int) -> Tensor:
    """Return random numbers of `shape`, the same ones each time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")


def _require_running(module: nn.Module, images: Tensor) -> None:
    """Raise UserError where `module` does not take `images`, or gives no tensor."""
    name, shape = type(module).__name__, tuple(images.shape)
    try:
        with torch.no_grad(), evaluating(module):
            found = module(images)
    except Exception as error:  # whatever the user's forward raises
        raise UserError(f"{name} does not run on images of shape {shape}: {named_reason(error)}") from error
    if not isinstance(found, Tensor):
        raise UserError(f"{name} returns a {type(found).__name__}, not logits")


def _require_equal(network: Network, run: Any, path: Path) -> None:
    images = _noise(BATCH, *network.input_shape)
    with torch.inference_mode():
        ours, theirs = network.module(images), run(images)
    difference = relative_difference(ours, theirs)
    if not difference <= TOLERANCE:
        raise Failure(f"{path} computes something else than the network: {difference:.2e} of the largest logit")
