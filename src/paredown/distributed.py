"""Several processes on one experiment: start them, and hold them to the same network."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist

ENTRY = Path(__file__).parents[1] / "run.py"


class RankMismatchError(RuntimeError):
    """The ranks of one experiment hold different networks."""


def launched() -> bool:
    """Whether this process is one of several that torchrun (or a cluster's launcher) started."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1


def rank() -> int:
    """This process's rank; 0 when it is alone."""
    return int(os.environ.get("RANK", "0")) if launched() else 0


def launch(overrides: list[str], devices: int) -> int:
    """Run `src/run.py overrides` in `devices` processes on this node under torchrun; returns the exit code."""
    threads = str(max(1, torch.get_num_threads() // devices))
    environment = {"OMP_NUM_THREADS": threads, "TORCH_CPP_LOG_LEVEL": "ERROR"} | os.environ
    with subprocess.Popen([*torchrun(devices), str(ENTRY), *overrides], env=environment) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the ranks got it too: let them end in order
            process.wait(timeout=30)
            raise


def torchrun(devices: int) -> list[str]:
    """The command that runs what follows it in `devices` processes on this node."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(devices)]
    return [*command, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]


def join() -> None:
    """Connect to the other ranks: gloo for data on the CPU, NCCL for data on GPUs."""
    if launched() and not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def barrier() -> None:
    """Wait for the other ranks."""
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(1))


def from_rank_zero(value: bool) -> bool:
    """Rank 0's `value`, on every rank."""
    if not dist.is_initialized():
        return value
    flag = torch.tensor(int(value))
    dist.broadcast(flag, src=0)
    return bool(flag)


def require_agreement(module: nn.Module, after: str) -> None:
    """Raise RankMismatchError unless all ranks hold tensors of the same names and shapes, and the same masks."""
    if not dist.is_initialized():
        return
    if other := _others(_fingerprint(module)):
        raise RankMismatchError(f"after {after}: ranks {other} hold other shapes or masks than rank 0")


def all_have(path: Path) -> bool:
    """Whether the file `path` is there, on every rank the same: nodes may share no folder."""
    there = path.is_file()
    if not dist.is_initialized():
        return there
    content = hashlib.sha256(path.read_bytes() if there else b"").digest()
    return not _others(content) and there


def _others(digest: bytes) -> list[int]:
    """The ranks whose `digest`, of 32 bytes, is not rank 0's."""
    own = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    return [r for r, theirs in enumerate(gathered) if not torch.equal(theirs, gathered[0])]


def _fingerprint(module: nn.Module) -> bytes:
    text = hashlib.sha256()
    tensors: list[tuple[str, Tensor]] = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in tensors:
        text.update(f"{name}{tuple(tensor.shape)}".encode())
        if tensor.dtype is torch.bool:
            text.update(tensor.cpu().numpy().tobytes())
    return text.digest()
