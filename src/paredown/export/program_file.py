"""The format `program`: a torch.export program (.pt2), which runs with torch alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch

from paredown.core.errors import UserError, reason
from paredown.core.files import reading
from paredown.cost.executed import executed
from paredown.export.files import EXPORT_AGAIN, Loaded, Source
from paredown.export.screening import screened

FACTS = "paredown.json"


def write(source: Source, path: Path, opset: int | None = None) -> None:
    """Write the module, traced with a dynamic batch size. Example inputs are omitted: torch would pickle them."""
    shapes = ({0: torch.export.Dim("batch")},)
    module = copy.deepcopy(source.module)
    for tensor in (*module.parameters(), *module.buffers()):  # views and channels-last tensors are not saved correctly
        tensor.data = tensor.data.clone(memory_format=torch.contiguous_format)
    try:
        program = torch.export.export(module, (source.example(),), dynamic_shapes=shapes)
    except Exception as error:  # dozens of private types
        raise UserError(f"torch.export cannot trace {type(source.module).__name__}: {reason(error)}") from error
    program.example_inputs = None
    torch.export.save(program, path, extra_files={FACTS: json.dumps(source.facts)})


def load(path: Path) -> Loaded:
    """Load a program; see `files.Format`. Raise UserError for one that is more than data (`screening`)."""
    plain = screened(path)
    facts = {FACTS: ""}
    with reading(path, EXPORT_AGAIN):
        module = torch.export.load(plain, extra_files=facts).module(check_guards=False)
        known = json.loads(facts[FACTS])
        image = torch.zeros(1, *known["input"])
        held = sum(tensor.nbytes for tensor in module.state_dict().values())
        return Loaded(module, *executed(module, image), held, known)
