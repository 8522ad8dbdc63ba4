"""What a machine has instructions for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paredown.core.errors import UserError
from paredown.training import machine

CPU = torch.device("cpu")


def test_what_is_asked_is_checked_and_auto_stays() -> None:
    for asked in ("auto", "32", "bf16"):
        assert machine.check_precision(asked, CPU) == asked
    assert machine.check_precision(32, CPU) == "32"  # as yaml reads it
    with pytest.raises(UserError, match=r"recipe\.precision=16 needs a GPU"):
        machine.check_precision("16", CPU)


def test_bf16_without_instructions_is_warned_of(monkeypatch, caplog) -> None:
    for units in (True, False):
        monkeypatch.setattr(machine, "has_bf16_units", lambda device, units=units: units)
        caplog.clear()
        machine.warn_of_precision("bf16", CPU)
        machine.warn_of_precision("32", CPU)
        assert ("no bf16 matrix units" in caplog.text) is not units


def test_the_cpu_is_known_to_torch_as_the_system_knows_it() -> None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith("flags")).split()
    except (OSError, StopIteration):
        pytest.skip("the processor's flags are not readable here")
    assert machine.has_bf16_units(CPU) == bool({"amx_tile", "avx512_bf16"} & set(flags))
