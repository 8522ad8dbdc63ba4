"""Processes on one experiment: what they are started with, and what they are held to."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from paredown.core import distributed
from paredown.core.distributed import RankMismatchError, all_have, broadcast, require_agreement
from paredown.core.errors import UserError
from paredown.layers.masked import MaskedLinear


class Started:
    """Takes the place of `subprocess.Popen` and keeps what it was started with."""

    seen: dict[str, object] = {}  # noqa: RUF012

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        Started.seen = {"command": command, "env": env}

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None: ...

    def wait(self, timeout: float | None = None) -> int:
        return 0


@pytest.mark.parametrize(("threads", "devices", "each"), [(8, 2, "4"), (8, 3, "2"), (2, 4, "1")])
def test_ranks_share_the_threads(monkeypatch: pytest.MonkeyPatch, threads: int, devices: int, each: str) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(distributed.subprocess, "Popen", Started)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert distributed.launch(["method=dense"], devices) == 0
    environment, command = Started.seen["env"], Started.seen["command"]
    assert environment["OMP_NUM_THREADS"] == each and "PATH" in environment  # type: ignore[index,operator]
    assert command[-4:] == ["-m", "paredown", "run", "method=dense"] and str(devices) in command  # type: ignore[index,operator]
    assert environment["PYTHONPATH"].startswith(str(distributed.SOURCE))  # type: ignore[index]


def test_a_users_number_of_threads_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(distributed.subprocess, "Popen", Started)
    distributed.launch([], 2)
    assert Started.seen["env"]["OMP_NUM_THREADS"] == "3"  # type: ignore[index]


@pytest.mark.parametrize(
    "inherited",
    [
        {"WORLD_SIZE": "2"},
        {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"},
        {"WORLD_SIZE": "two", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "1"},
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_JOB_NAME": "train"},
        {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "PMI_RANK": "1"},
        {"PL_TRAINER_MAX_EPOCHS": "1", "PET_NNODES": "2"},
    ],
)
def test_what_a_shell_inherits_makes_no_rank(monkeypatch: pytest.MonkeyPatch, inherited: dict[str, str]) -> None:
    for name, value in inherited.items():
        monkeypatch.setenv(name, value)
    assert not distributed.launched() and distributed.rank() == 0
    distributed.ignore_launchers()
    assert not set(inherited) & set(os.environ)


def test_a_rank_whose_peers_do_not_come_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": "0"}
    for name, value in ({"RANK": "0", "WORLD_SIZE": "2"} | here).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "MEETING_SECONDS", 1.0)
    with pytest.raises(
        UserError, match=rf"^rank 0 of 2 .* found no other ranks at 127\.0\.0\.1:{port} within 1 s: unset"
    ):
        distributed.join()
    distributed.ignore_launchers()
    assert os.environ["RANK"] == "0"  # it is one of two all the same


def test_alone_everything_agrees(tmp_path: Path) -> None:
    tensor = torch.arange(3)
    assert broadcast(tensor) is tensor and distributed.from_rank_zero(True)
    require_agreement(nn.Linear(1, 1), "nothing")
    assert not all_have(tmp_path / "missing")
    (tmp_path / "there").write_text("x")
    assert all_have(tmp_path / "there")


def layer(rank: int) -> MaskedLinear:
    made = MaskedLinear(nn.Linear(4, 2), torch.ones(2, 4, dtype=torch.bool))
    made.register_buffer("order", torch.arange(4))
    return made


def other_mask(made: MaskedLinear) -> None:
    made.set_mask(torch.eye(2, 4, dtype=torch.bool))


def other_order(made: MaskedLinear) -> None:
    made.get_buffer("order")[0] = 9


def other_shape(made: MaskedLinear) -> None:
    made.register_buffer("more", torch.zeros(1))


def other_values(made: MaskedLinear) -> None:
    made.weight.data.add_(1e-3)


CHANGES = {"mask": (other_mask, True), "indices": (other_order, True), "shapes": (other_shape, True)}
CHANGES["weights"] = (other_values, False)  # DDP keeps those; other processors round otherwise


def _rank(rank: int, folder: str) -> None:
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank)}  # the group makes them ranks, as under Ray
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    own = torch.full((2,), float(rank))
    assert broadcast(own).tolist() == [0.0, 0.0]
    mask = torch.tensor([rank == 0, True])
    assert broadcast(mask).tolist() == [True, True]
    for change, differs in CHANGES.values():
        made = layer(rank)
        require_agreement(made, "nothing")
        if rank:
            change(made)
        if differs:
            with pytest.raises(RankMismatchError, match=r"after prune: ranks \[1\] hold other"):
                require_agreement(made, "prune")
        else:
            require_agreement(made, "train")
    path = Path(folder) / f"only-{rank}"
    path.write_text("x")
    assert not all_have(Path(folder) / f"only-{rank}" if rank else Path(folder) / "missing")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_are_held_to_masks_indices_and_shapes(tmp_path: Path) -> None:
    multiprocessing.spawn(_rank, (str(tmp_path),), nprocs=2)


ENDING = """
import atexit
from paredown.core import distributed
atexit.register(print, "exit functions")
distributed.exit_rank()
print("alone")
"""


@pytest.mark.parametrize(("world", "printed"), [("2", "exit functions"), ("1", "alone\nexit functions")])
def test_a_rank_ends_without_finalizing_the_interpreter(world: str, printed: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TORCHELASTIC")}
    place = {"WORLD_SIZE": world, "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    command = [sys.executable, "-c", ENDING]
    done = subprocess.run(command, env=environment | place, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == printed


def test_rank_zero_alone_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measure() -> float:
        asked.append(distributed.dist.get_rank())
        return 2.5

    for rank in (0, 1):
        monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
        monkeypatch.setattr(distributed.dist, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(distributed.dist, "broadcast", lambda tensor, src: tensor.fill_(2.5))
        assert distributed.measured_by_rank_zero(measure) == 2.5
    assert asked == [0]
