"""A recipe's `auto` becomes what the machine is good at."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch

from paredown.errors import UserError
from paredown.training import machine

CPU = torch.device("cpu")


@pytest.mark.parametrize(("units", "precision"), [(True, "bf16"), (False, "32")])
def test_auto_takes_bf16_where_it_runs_in_hardware(
    units: bool, precision: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "has_bf16_units", lambda device: units)
    assert machine.resolve_precision("auto", CPU) == precision
    assert machine.resolve_precision("32", CPU) == "32" and machine.resolve_precision("bf16", CPU) == "bf16"
    with caplog.at_level(logging.INFO, "paredown"):
        machine.tell_precision("auto", CPU)
    assert ("no bf16 matrix units" in caplog.text) is not units


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(UserError, match=r"recipe\.precision=16 needs a GPU"):
        machine.resolve_precision("16", CPU)


def test_the_cpu_is_known_to_torch_as_the_system_knows_it() -> None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith("flags")).split()
    except (OSError, StopIteration):
        pytest.skip("the processor's flags are not readable here")
    assert machine.has_bf16_units(CPU) == bool({"amx_tile", "avx512_bf16"} & set(flags))
