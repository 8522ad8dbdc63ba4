"""What is asked of an export, as typed after src/export.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paredown.command import number, settings, several
from paredown.errors import UserError, nearest

FORMATS = ("torch", "program", "onnx")
DEPLOYS = ("auto", "plain")
SPLITS = ("val", "test")
KNOWN = (
    *("run", "format", "output", "folder", "tracking.uri", "deploy", "batch", "threads", "opset", "tolerance"),
    *("split", "dataset", "dataset.root", "register", "verify"),
)


@dataclass(frozen=True)
class Request:
    """The `run` to export (an MLflow run id or a folder) into `folder`, as which `formats`.

    `deploy`: 'auto' times which form of each layer is fastest, for `batch` images at once, 'plain' does not. `split`
    None: val, else test. `dataset` names the images where the run does not, `root` where they lie now. `register`: a
    name in MLflow's registry. `tolerance`: the largest difference of a logit, as a share of the largest logit; its
    default is what fp32 loses where batch norm and factors are folded, with room. `verify`: the folder of an earlier
    export to be checked again, instead of a run.
    """

    run: str = ""
    formats: tuple[str, ...] = FORMATS
    output: Path = Path("outputs")
    uri: str | None = None
    folder: Path | None = None
    deploy: str = "auto"
    batch: int = 32
    threads: int | None = None
    opset: int | None = None
    tolerance: float = 1e-4
    split: str | None = None
    dataset: str | None = None
    root: str | None = None
    register: str | None = None
    verify: Path | None = None


def parse(words: Sequence[str]) -> Request:
    """The request of `words`. UserError for whatever is wrong with them."""
    given = settings(words, KNOWN)
    if ("run" in given) == ("verify" in given):
        both = ", not both" if "run" in given else ""
        raise UserError(f"export what? give run=ID (or a folder), or verify=FOLDER of an earlier export{both}")
    values: dict[str, Any] = {name: given[name] for name in ("run", "dataset", "register") if name in given}
    values |= {name: Path(given[name]).expanduser() for name in ("output", "folder", "verify") if name in given}
    values |= {new: given[old] for old, new in (("tracking.uri", "uri"), ("dataset.root", "root")) if old in given}
    values |= {name: number(name, given[name], int, 1) for name in ("batch", "threads", "opset") if name in given}
    if "tolerance" in given:
        values["tolerance"] = number("tolerance", given["tolerance"], float)
    for name, allowed in (("deploy", DEPLOYS), ("split", SPLITS)):
        if name in given:
            values[name] = choice(name, given[name], allowed)
    if "format" in given:
        values["formats"] = tuple(choice("format", part, FORMATS) for part in several(given["format"]))
    return Request(**values)


def choice(name: str, value: str, allowed: Sequence[str]) -> str:
    """`value`, one of `allowed`. UserError for another."""
    if value not in allowed:
        raise UserError(f"unknown {name} {value!r}: {nearest(value, allowed)}")
    return value
