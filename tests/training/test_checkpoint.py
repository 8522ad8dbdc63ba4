"""Checkpoints without pickle."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from paredown.core.errors import UserError
from paredown.training.checkpoint import SafeCheckpointIO


def test_an_optimizer_and_nested_data_come_back_equal(tmp_path: Path) -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4, 3, 3).to(memory_format=torch.channels_last))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 3,
        "nothing": None,
        "history": [{"loss": 0.5}],
        "pair": (1, "a"),
        "optimizer_states": [optimizer.state_dict()],
    }
    io = SafeCheckpointIO()
    io.save_checkpoint(checkpoint, tmp_path / "last")
    back = io.load_checkpoint(tmp_path / "last")
    momentum = back["optimizer_states"][0]["state"][0].pop("momentum_buffer")
    assert torch.equal(momentum, checkpoint["optimizer_states"][0]["state"][0].pop("momentum_buffer"))
    assert back == checkpoint
    assert list(back["optimizer_states"][0]["state"]) == [0]  # integer keys stay integers
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "last").write_bytes(pickle.dumps({"epoch": 1}))
    with pytest.raises(UserError, match=r"last cannot be read: .*(?i:header).* \(delete it: that fit starts again\)"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "last")


def test_one_changed_bit_anywhere_is_seen(tmp_path: Path) -> None:
    io, path = SafeCheckpointIO(), tmp_path / "last"
    io.save_checkpoint({"epoch": 3, "weights": torch.arange(8.0)}, path)
    whole = path.read_bytes()
    for place in [*range(8, len(whole), 7), len(whole) - 1]:  # the first eight bytes are the header's length
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = io.load_checkpoint(path)
        except UserError:
            continue
        assert found["epoch"] == 3 and torch.equal(found["weights"], torch.arange(8.0))  # a space in the header
    path.write_bytes(whole)
    assert io.load_checkpoint(path)["epoch"] == 3


def test_a_checkpoint_of_an_older_version_has_no_digest(tmp_path: Path) -> None:
    metadata = {"structure": json.dumps({"pairs": [["epoch", 3], ["weights", {"tensor": "0"}]]})}
    save_file({"0": torch.ones(2)}, tmp_path / "last", metadata=metadata)
    assert SafeCheckpointIO().load_checkpoint(tmp_path / "last")["epoch"] == 3


def test_an_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="plain data"):
        SafeCheckpointIO().save_checkpoint({"thing": object()}, tmp_path / "last")
