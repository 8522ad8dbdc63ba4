"""The files of an export: written, evaluated in separate processes, compared with the trained network, and timed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paredown.core.network import Network
from paredown.core.progress import each, passed
from paredown.data.images import ImageData
from paredown.export import certificate
from paredown.export.certificate import Entry, Quantised
from paredown.export.check import BATCH, Images, in_fresh_process
from paredown.export.files import FORMATS, QUANTIZED, Source, format_of, size
from paredown.export.own import remember
from paredown.export.request import Request

log = logging.getLogger("paredown")


class Reference(NamedTuple):
    """Logits (N, classes) of the trained network, and the labels (N,) of the images."""

    logits: Tensor
    labels: Tensor

    @classmethod
    @torch.inference_mode()
    def of(cls, network: Network, data: ImageData, split: Any) -> Reference:
        """Evaluate `network` on every image of `split` of `data`."""
        module = network.module.eval()
        batches = passed(data.eval_loader(split, BATCH, "cpu"), "evaluation")
        found = [(module(images), labels) for images, labels in batches]
        return cls(torch.cat([logits for logits, _ in found]), torch.cat([labels for _, labels in found]))


class Writer:
    """Writes the files of `request` into `place` and holds each against `reference`, the trained network's logits on
    `images` of `data`."""

    def __init__(self, request: Request, place: Path, data: ImageData, images: Images, reference: Reference) -> None:
        self.request, self.place, self.data = request, place, data
        self.images, self.reference = images, reference

    def entries(self, sources: Mapping[str, tuple[Source, Source]]) -> dict[str, Entry]:
        """Write each format of `sources`, a network and its dense counterpart, and return the comparisons by name."""
        found: dict[str, Entry] = {}
        for name, (source, dense) in each(sources.items(), "export", "files"):
            path = self.place / FORMATS[name]
            log.info("writing %s", path.name)
            format_of(name).write(source, path, self.request.opset)
            with TemporaryDirectory() as other:
                rival = Path(other) / FORMATS[name]
                format_of(name).write(dense, rival, self.request.opset)
                found |= (
                    self._onnx(source, path, rival) if name == "onnx" else {name: self._compared(name, path, rival)}
                )
            if name == "program":
                remember(found[name].sha256)
        return found

    def _onnx(self, source: Source, path: Path, dense: Path) -> dict[str, Entry]:
        """Return the comparison of the ONNX file `path`, and of the one in 8 bits made of it if that is asked for."""
        found = {"onnx": self._timed(self._compared("onnx", path, dense), dense)}
        if self.request.quantize:
            found["int8"] = self._quantised(source, path, dense)
        return found

    def _quantised(self, source: Source, exported: Path, dense: Path) -> Entry:
        from paredown.export import int8_file  # imports onnxruntime, which other formats do without

        path = self.place / QUANTIZED["int8"]
        loader = self.data.eval_loader("train", BATCH, "cpu", images=self.request.calibration)
        log.info("writing %s", path.name)
        int8_file.write(exported, path, (images for images, _ in loader), source.facts)
        entry = self._timed(self._compared("int8", path, dense), dense)
        before = certificate.top1(*self.reference)
        used = min(self.request.calibration, self.data.sizes["train"])
        return replace(entry, quantised=Quantised(used, before, before - entry.top1, self.request.max_drop))

    def _compared(self, name: str, path: Path, dense: Path) -> Entry:
        log.info("evaluating it in a separate process, on %d images", len(self.reference.labels))
        found = in_fresh_process(name, path, self.images)
        return certificate.compare(path, found, size(dense), *self.reference, self.request.tolerance)

    def _timed(self, entry: Entry, dense: Path) -> Entry:
        from paredown.export.speed import speeds

        log.info("timing it beside the dense network's, under onnxruntime")
        found = speeds(self.place / entry.file, dense, self.data.input_shape, self.request.seconds)
        return replace(entry, latency=tuple(found))
