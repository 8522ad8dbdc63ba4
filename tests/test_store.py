"""States by key: whole or not there, shared by processes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from paredown import blueprint
from paredown.errors import UserError
from paredown.store import Record, Store, open_store

ARCHITECTURE = {
    "_target_": "paredown.models.resnet.cifar_resnet",
    "depth": 8,
    "num_classes": 10,
    "in_channels": 1,
}
HOLD = """
import pathlib, time
from paredown.store import Store
with Store(pathlib.Path({root!r})).lock("abc"):
    print("held", flush=True)
    time.sleep(60)
"""
RECORD = Record("abc", "root", {"is": "Fit"}, 0, "data", 1.5, [{"train/loss": 0.1}])


def test_a_state_comes_back_equal(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    network = blueprint.create(ARCHITECTURE, (1, 8, 8))
    assert not store.has("abc")
    store.put(network, RECORD)
    assert store.has("abc") and store.record("abc") == RECORD
    back = blueprint.read(store.folder("abc"))
    assert back.architecture == ARCHITECTURE and back.input_shape == (1, 8, 8)
    own = network.module.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in back.module.state_dict().items())
    assert not store.folder("abc").with_name("abc.unfinished").exists()


def test_half_a_state_is_no_state(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.workplace("abc") / "state").mkdir()
    assert not store.has("abc")
    store.put(blueprint.create(ARCHITECTURE, (1, 8, 8)), RECORD)
    assert store.has("abc")


def test_a_lock_is_freed_by_its_holders_death(tmp_path: Path) -> None:
    code = HOLD.format(root=str(tmp_path))
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout and holder.stdout.readline() == "held\n"
    waited: list[float] = []

    def kill() -> None:
        waited.append(time.monotonic())
        holder.kill()

    with Store(tmp_path).lock("abc", waiting=kill):
        assert waited
    holder.wait()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to output folder .*output=FOLDER"):
        open_store(tmp_path / "file" / "store")
