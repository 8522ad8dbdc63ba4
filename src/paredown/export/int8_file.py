"""The quantised form `int8`: an ONNX file in 8 bits, made of the exported one by onnxruntime's static quantisation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor

from paredown.core.errors import UserError, reason
from paredown.export.files import Facts
from paredown.export.onnx_file import INPUT, describe, quiet

# the layers before the logits: rounded to 256 values, logits of two classes would often be equal
UNROUNDED = ["Gemm", "MatMul"]


class _Images(CalibrationDataReader):
    """Batches of images as onnxruntime reads them."""

    def __init__(self, batches: Iterable[Tensor]) -> None:
        self.batches: Iterator[Tensor] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch, None after the last."""
        images = next(self.batches, None)
        return None if images is None else {INPUT: images.contiguous().numpy()}


def write(exported: Path, path: Path, batches: Iterable[Tensor], facts: Facts) -> None:
    """Write the ONNX file `exported` in 8 bits to `path`: weights per output channel, maps per tensor, by the least and
    largest value over the images of `batches`, (B, C, H, W) each. Raise UserError where onnxruntime cannot.

    Weights have 7 bits: two products of 8 bits may exceed the 16 bits in which processors without VNNI add them up, and
    the file would compute something else there than where it was certified.
    """
    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "quant_format": QuantFormat.QDQ}
    settings = kinds | {"extra_options": {"OpTypesToExcludeOutputQuantization": UNROUNDED}}
    try:
        with quiet():
            quantize_static(exported, path, _Images(batches), per_channel=True, reduce_range=True, **settings)
    except Exception as error:  # of many kinds, its authors' own among them
        raise UserError(f"onnxruntime cannot quantise {exported.name}: {reason(error)}") from error
    model = onnx.load(path)
    describe(model, facts)
    onnx.save(model, path)
