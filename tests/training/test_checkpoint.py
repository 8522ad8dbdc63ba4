"""Checkpoints without pickle."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

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
    with pytest.raises(Exception, match=r"(?i)header|safetensor"):
        SafeCheckpointIO().load_checkpoint(tmp_path / "last")


def test_an_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="plain data"):
        SafeCheckpointIO().save_checkpoint({"thing": object()}, tmp_path / "last")
