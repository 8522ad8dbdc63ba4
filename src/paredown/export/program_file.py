"""A torch.export program (.pt2): runs with torch alone, without paredown."""

from __future__ import annotations

import copy
import json
import re
import zipfile
from pathlib import Path

import torch

from paredown.cost.executed import executed
from paredown.errors import UserError
from paredown.export.files import Loaded, Source, damaged

FACTS = "paredown.json"
# what torch.export.save writes of a program like ours, and reads as numbers and JSON; its older formats are pickles
PLAIN = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/\w+|extra/[^/]+|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)|data/constants/(tensor_\d+|model_constants_config\.json))"
)


def write(source: Source, path: Path, opset: int | None = None) -> None:
    """The module traced with a free batch size. Example inputs are left out: torch would pickle them."""
    shapes = ({0: torch.export.Dim("batch")},)
    module = copy.deepcopy(source.module)
    for tensor in (*module.parameters(), *module.buffers()):  # a view, or one in channels-last order, is not kept whole
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    try:
        program = torch.export.export(module, (source.example(),), dynamic_shapes=shapes)
    except Exception as error:  # of dozens of types, none of them public
        raise UserError(f"torch.export cannot trace {type(source.module).__name__}: {_first(error)}") from error
    program.example_inputs = None
    torch.export.save(program, path, extra_files={FACTS: json.dumps(source.facts)})


def load(path: Path) -> Loaded:
    """See `files.Format`. A program that holds a pickle is refused: torch.export.load would run it."""
    _check_no_pickle(path)
    facts = {FACTS: ""}
    try:
        module = torch.export.load(path, extra_files=facts).module()
        known = json.loads(facts[FACTS])
    except Exception as error:  # a damaged archive shows itself in many ways
        raise damaged(path, error) from error
    image = torch.zeros(1, *known["input"])
    held = sum(tensor.nbytes for tensor in module.state_dict().values())
    return Loaded(module, *executed(module, image), held, known)


def _check_no_pickle(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = [info.filename for info in archive.infolist() if not _is_plain(info)]
            configs = [name for name in archive.namelist() if name.endswith("_config.json")]
            pickled += [name for name in configs if _asks_for_pickle(archive.read(name).decode())]
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise damaged(path, error) from error
    if pickled:
        raise UserError(f"{path} holds pickled data in {pickled[0]}, which is not loaded: export it again")


def _is_plain(info: zipfile.ZipInfo) -> bool:
    """Whether torch reads this member without a pickle: whatever is not known to be so is none of ours."""
    empty_sample = info.filename.endswith("/data/sample_inputs/model.pt") and not info.file_size
    return empty_sample or PLAIN.fullmatch(info.filename) is not None


def _asks_for_pickle(config: str) -> bool:
    asked: list[bool] = []
    json.loads(config, object_hook=lambda entry: asked.append(entry.get("use_pickle", False) is not False))
    return any(asked)


def _first(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
