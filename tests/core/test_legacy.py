"""What older versions wrote is read: names of classes and functions, and states of format 1."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra.utils import get_method, get_object
from safetensors.torch import load_file

from paredown.core import blueprint
from paredown.core.legacy import MOVED, current_target
from paredown.cost import count

STATES = Path(__file__).parents[1] / "golden" / "states"
FOLDERS = sorted(path.name for path in STATES.iterdir())


@pytest.mark.parametrize("old", MOVED)
def test_what_moved_is_there(old: str) -> None:
    assert current_target(old) != old and callable(get_object(MOVED[old]))
    with pytest.raises(Exception, match="paredown"):
        get_method(old)  # no shim at the old place


def test_a_name_of_today_stays() -> None:
    assert current_target("paredown.methods.dense.Dense") == "paredown.methods.dense.Dense"


@pytest.mark.parametrize("name", FOLDERS)
def test_a_state_of_the_first_layout_is_read_and_computes_what_it_did(name: str) -> None:
    """Each was written by the first layout's code, with the logits of its own network beside it."""
    network = blueprint.read(STATES / name)
    wanted = load_file(STATES / name / "logits.safetensors")
    with torch.no_grad():
        found = network.module(wanted["images"])
    assert torch.allclose(found, wanted["logits"], atol=1e-4)
    assert count(network.module, network.input_shape).macs > 0


@pytest.mark.parametrize("name", FOLDERS)
def test_it_is_written_again_in_todays_format(name: str, tmp_path: Path) -> None:
    old = blueprint.read(STATES / name)
    blueprint.save(old, tmp_path)
    data = json.loads((tmp_path / blueprint.ARCHITECTURE).read_text())
    assert data["format"] == blueprint.FORMAT and data["architecture"]["_target_"] not in MOVED
    again = blueprint.read(tmp_path).module.state_dict()
    assert all(torch.equal(value, again[key]) for key, value in old.module.state_dict().items())


def test_every_kind_that_was_written_is_here() -> None:
    kinds = {
        entry["kind"]
        for name in FOLDERS
        for entry in json.loads((STATES / name / blueprint.ARCHITECTURE).read_text())["blueprint"].values()
    }
    assert kinds == {
        *("branches", "conv_pair", "grouped_pair", "low_rank", "masked", "searched", "sparse", "ssc", "taught"),
    }
