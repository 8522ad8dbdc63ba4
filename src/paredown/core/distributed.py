"""Several processes on one experiment: starting them, and keeping them on the same network."""

from __future__ import annotations

import atexit
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn
from torch import distributed as dist

from paredown.core.errors import UserError

SOURCE = Path(__file__).parents[2]
RENDEZVOUS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # what every launcher of ranks sets
RANKS = (*RENDEZVOUS, "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")
LAUNCHERS = ("SLURM_", "PMI_", "PMIX_", "OMPI_", "JSM_", "LSB_", "PL_", "PET_")
GRACE_SECONDS = 10.0  # that ranks get to end in order
MEETING_SECONDS = 300.0  # that ranks wait for each other at the start


class RankMismatchError(RuntimeError):
    """The ranks of one experiment hold different networks."""


def launched() -> bool:
    """Tell whether this process is one of several that torchrun, Ray or a cluster's launcher started.

    A launcher names this rank and where the others meet it. WORLD_SIZE alone, or the task count of a batch system, says
    nothing: such variables are inherited by whatever is started in a job.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ or dist.is_initialized():
        return True
    found = [os.environ.get(name, "") for name in RENDEZVOUS]
    return all(found) and os.environ["WORLD_SIZE"].isdecimal() and int(os.environ["WORLD_SIZE"]) > 1


def rank() -> int:
    """Return this process's rank; 0 when it is alone."""
    return int(os.environ.get("RANK", "0")) if launched() else 0


def started() -> int:
    """Return how many ranks there are; 1 when this process is alone."""
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1")) if launched() else 1


def ignore_launchers() -> None:
    """Remove from this process's environment what would make a library change a training unasked: the variables of
    batch systems, Lightning's and torchrun's defaults, and, in a process that is alone, the place in a group."""
    ranked = launched()
    for name in [*os.environ]:
        if name.startswith(LAUNCHERS) or (name in RANKS and not ranked):
            del os.environ[name]


def launch(overrides: list[str], devices: int) -> int:
    """Run `paredown run overrides` in `devices` processes on this node under torchrun. Return the exit code."""
    threads = str(max(1, torch.get_num_threads() // devices))
    ignore_launchers()  # torchrun reads PET_... variables as its options
    environment = {"OMP_NUM_THREADS": threads, "TORCH_CPP_LOG_LEVEL": "ERROR"} | os.environ
    paths = [str(SOURCE), *filter(None, [environment.get("PYTHONPATH")])]  # a clone need not be installed
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [*torchrun(devices), "-m", "paredown", "run", *overrides]
    with subprocess.Popen(command, env=environment) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            _end(process)
            raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let torchrun end its ranks in order. From a terminal they got the signal too; from `kill` this process alone."""
    for stop in (lambda: None, process.terminate, process.kill):
        stop()
        try:
            process.wait(timeout=GRACE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            continue


def torchrun(devices: int) -> list[str]:
    """Return the command that runs what follows it in `devices` processes on this node."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(devices)]
    return [*command, "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]


def join() -> None:
    """Connect to the other ranks: gloo for data on the CPU, NCCL for data on GPUs. Raise UserError if they do not come
    within MEETING_SECONDS."""
    if not launched() or dist.is_initialized():
        return
    try:
        store, number, size = next(dist.rendezvous("env://", timeout=timedelta(seconds=MEETING_SECONDS)))
        store.set_timeout(dist.constants.default_pg_timeout)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=size)
    except (dist.DistError, ValueError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"rank {os.environ.get('RANK')} of {os.environ.get('WORLD_SIZE')} (variables RANK, WORLD_SIZE) found no"
            f" other ranks at {place} within {MEETING_SECONDS:.0f} s: unset these variables to train alone, or start"
            " all ranks by torchrun"
        ) from error


def exit_rank() -> None:
    """End this process with exit code 0 if it is one of several ranks, after the exit functions, but without
    finalizing the interpreter: a gloo thread that still releases a tensor of the last collective would abort the
    process then (pytorch issue 190489), and a group that DDP refers to outlives destroy_process_group."""
    if launched():
        atexit._run_exitfuncs()  # logging, temporary folders and the loader's processes
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def barrier() -> None:
    """Wait for the other ranks."""
    if dist.is_initialized():
        dist.all_reduce(torch.zeros(1))


def from_rank_zero(value: bool) -> bool:
    """Return rank 0's `value` on every rank."""
    return bool(broadcast(torch.tensor(int(value))))


def measured_by_rank_zero(measure: Callable[[], float]) -> float:
    """Return what `measure` gives on rank 0, where it is called alone: the others wait, and disturb no timing."""
    alone = not dist.is_initialized()
    value = measure() if alone or not dist.get_rank() else 0.0
    return float(broadcast(torch.tensor(value, dtype=torch.float64)))


def broadcast(tensor: Tensor) -> Tensor:
    """Overwrite `tensor` by rank 0's, in place, and return it: what is decided on rank 0 (masks, ranks, scores) is
    broadcast before it is applied."""
    if dist.is_initialized():
        dist.broadcast(tensor, src=0)
    return tensor


def total(tensor: Tensor) -> Tensor:
    """Add up `tensor` over the ranks, in place, and return it."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def require_equal(content: bytes, what: str) -> None:
    """Raise RankMismatchError unless `content` is the same on all ranks; `what` names it."""
    if dist.is_initialized() and (other := _others(hashlib.sha256(content).digest())):
        raise RankMismatchError(f"{what} of ranks {other} differs from rank 0's")


def require_agreement(module: nn.Module, after: str) -> None:
    """Raise RankMismatchError unless all ranks hold tensors of the same names and shapes, and the same masks and
    indices (boolean and int64 tensors)."""
    if not dist.is_initialized():
        return
    if other := _others(_fingerprint(module)):
        raise RankMismatchError(f"after {after}: ranks {other} hold other shapes or masks than rank 0")


def all_have(path: Path) -> bool:
    """Tell whether the file `path` exists with the same contents on every rank: nodes may share no folder."""
    there = path.is_file()
    if not dist.is_initialized():
        return there
    content = hashlib.sha256(path.read_bytes() if there else b"").digest()
    return not _others(content) and there


def _others(digest: bytes) -> list[int]:
    """Return the ranks whose `digest`, of 32 bytes, is not rank 0's."""
    own = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    return [r for r, theirs in enumerate(gathered) if not torch.equal(theirs, gathered[0])]


def _fingerprint(module: nn.Module) -> bytes:
    text = hashlib.sha256()
    tensors: list[tuple[str, Tensor]] = [*module.named_parameters(), *module.named_buffers()]
    for name, tensor in tensors:
        text.update(f"{name}{tuple(tensor.shape)}".encode())
        if tensor.dtype in (torch.bool, torch.int64):
            text.update(tensor.cpu().numpy().tobytes())
    return text.digest()
