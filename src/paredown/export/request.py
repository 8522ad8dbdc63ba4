"""The request of an export, as typed after src/export.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from paredown.core import requests
from paredown.core.constraints import Before, Checked, Count, NonNegative, Threads
from paredown.core.errors import UserError
from paredown.core.progress import Mode, mode_of
from paredown.core.requests import Folder, Listed
from paredown.core.trust import Name

Format = Literal["torch", "program", "onnx"]
CALIBRATION, MAX_DROP = 256, 1.0
OLDEST_INT8 = 13  # the first opset with a scale for each channel


@dataclass(frozen=True)
class Request(Checked):
    """The `run` to export (an MLflow run id or a folder) into `folder`, in each `format`.

    `deploy`: 'auto' times which form of each layer is fastest, for `batch` images at once, 'plain' does not. `split`
    None: val, else test. `dataset` names the images where the run does not, `root` their folder. `register`: a name in
    MLflow's registry. `tolerance`: the largest difference of a logit, as a share of the largest logit; its default
    leaves room above what fp32 loses where batch norm and factors are folded. `verify`: the folder of an earlier
    export to check again, instead of a run. `quantize` adds a file in 8 bits made of the ONNX one, calibrated on
    `calibration` training images, which may lose at most `max_drop` points of top-1. An ONNX file is timed for about
    `seconds` on each number of threads. `trust`: what a `_target_` may name besides the project's own, see
    `core.trust`. `progress`: what is shown of the work.
    """

    run: str = ""
    format: Annotated[tuple[Format, ...], Listed] = ("torch", "program", "onnx")
    output: Folder = Path("outputs")
    uri: str | None = field(default=None, metadata={"key": "tracking.uri"})
    folder: Folder | None = None
    deploy: Literal["auto", "plain"] = "auto"
    batch: Count = 32
    threads: Threads | None = None
    opset: Count | None = None
    tolerance: NonNegative = 1e-4
    split: Literal["val", "test"] | None = None
    dataset: str | None = None
    root: str | None = field(default=None, metadata={"key": "dataset.root"})
    register: str | None = None
    verify: Folder | None = None
    quantize: Literal["int8"] | None = None
    calibration: Count = CALIBRATION
    max_drop: NonNegative = MAX_DROP
    seconds: NonNegative = 2.0
    trust: Annotated[tuple[Name, ...], Listed] = ()
    progress: Annotated[Mode, Before(mode_of)] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.run) == bool(self.verify):
            both = ", not both" if self.run else ""
            raise UserError(f"export what? give run=ID (or a folder), or verify=FOLDER of an earlier export{both}")
        self._require_quantisable()

    def _require_quantisable(self) -> None:
        if not self.quantize:
            if (self.calibration, self.max_drop) != (CALIBRATION, MAX_DROP):
                raise UserError("calibration= and max_drop= are of quantize=int8: add it, or leave them out")
            return
        if self.verify:
            raise UserError("quantize=int8 goes with run=: verify= looks at the files that are there, int8 too")
        if "onnx" not in self.format:
            raise UserError("quantize=int8 is made of the ONNX file: add onnx to format=, or leave format out")
        require_int8_opset(self.opset)


def require_int8_opset(opset: int | None) -> None:
    """Raise UserError for an `opset` without scales per channel."""
    if opset is not None and opset < OLDEST_INT8:
        raise UserError(f"quantize=int8 needs opset={OLDEST_INT8} or later for a scale per channel")


def parse(words: Sequence[str]) -> Request:
    """Return the request of `words`. Raise UserError for whatever is wrong with them."""
    return requests.parse(Request, words)
