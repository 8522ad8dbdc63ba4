"""The machine of a fit: its processes, its devices, and what they have instructions for."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, cast, get_args

import torch

from paredown.core import distributed
from paredown.core.constraints import Before, Checked, Count, NonNegative, Threads, written
from paredown.core.errors import UserError, nearest
from paredown.core.progress import Mode, mode_of
from paredown.core.recipe import Precision

PRECISIONS = get_args(Precision)
BF16 = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")  # of torch.cpu.get_capabilities()
log = logging.getLogger("paredown")
SYNC_ON_CPU = "trainer.sync_batchnorm=true on several CPU processes: torch synchronises batch norm on GPUs only"
Accelerator = Literal["auto", "cpu", "gpu", "cuda"]
Strategy = Literal["auto", "ddp", "ray"]
RAY: Strategy = "ray"  # of ranks that Ray Train started: a sweep over several nodes sets it


@dataclass(frozen=True)
class Machine(Checked):
    """The processes and devices of a fit (conf/trainer/). Only the number of `ranks` and `sync_batchnorm` change a
    result and are part of a fit's key (`core.keys.rank_regime`).

    `checkpoint_seconds` is the least time between two checkpoints; one is written only at the end of an epoch.
    """

    section: ClassVar[str] = "trainer"

    accelerator: Accelerator = "auto"
    devices: Count = 1
    nodes: Count = 1
    strategy: Strategy = "auto"
    sync_batchnorm: bool = False
    threads: Threads | None = None
    eval_batch_size: Count = 256
    checkpoint_seconds: NonNegative = 30.0
    progress: Annotated[Mode, Before(mode_of)] = "auto"

    @property
    def ranks(self) -> int:
        """How many processes train together."""
        return self.devices * self.nodes


def device_of(accelerator: str) -> torch.device:
    """Return the device of one process under trainer.accelerator: CUDA if there is one and it is not ruled out."""
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def usable_cores() -> int:
    """Return how many processor cores this process may use: a batch system's share of the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_bf16_units(device: torch.device) -> bool:
    """Return whether bf16 matrix products run in hardware: CUDA from compute capability 8.0, CPUs with AMX,
    AVX512-BF16 or Arm's BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return any(torch.cpu.get_capabilities().get(name, False) for name in BF16)


def check_precision(asked: Any, device: torch.device) -> Precision | Literal["auto"]:
    """Return the precision that is `asked`, "auto" included. Raise UserError for fp16 on a CPU, which has no arithmetic
    for it, and for what is no precision."""
    if isinstance(asked, int) and not isinstance(asked, bool):  # as yaml reads 32
        asked = str(asked)
    if asked not in ("auto", *PRECISIONS):
        raise UserError(
            f"recipe.precision={written(asked)}: {nearest(written(asked, text=str), ('auto', *PRECISIONS))}"
        )
    if asked == "16" and device.type == "cpu":
        raise UserError("recipe.precision=16 needs a GPU: take auto, bf16 or 32")
    return cast(Precision, asked)


def warn_of_precision(precision: Precision, device: torch.device) -> None:
    """Log a warning, before training, where the machine has no instructions for `precision`."""
    if precision == "bf16" and not has_bf16_units(device):
        log.warning("recipe.precision=bf16: this machine has no bf16 matrix units, so it is no faster than 32")


def require_devices(machine: Machine) -> None:
    """Raise UserError for what this machine or this process cannot do. A sweep plans for other machines."""
    if machine.strategy == RAY:
        raise UserError(f"trainer.strategy={RAY} is set by sweeps with resources.across_nodes=true alone: take auto")
    if machine.nodes > 1 and not distributed.launched():
        raise UserError(
            f"trainer.nodes={machine.nodes}: start it on every node, by torchrun --nnodes {machine.nodes} "
            f"--nproc-per-node {machine.devices} --rdzv-backend c10d --rdzv-endpoint HOST:PORT src/run.py ..."
        )
    require_sync(machine, device_of(machine.accelerator))
    on_gpus = device_of(machine.accelerator).type == "cuda"
    most, name = (torch.cuda.device_count(), "GPUs") if on_gpus else (usable_cores(), "processor cores for us")
    if machine.devices > most:
        raise UserError(
            f"trainer.devices={machine.devices}: this machine has {most} {name}, and each process needs one"
        )
    if distributed.launched() and (started := distributed.started()) != machine.ranks:
        raise UserError(
            f"{started} ranks were started, but trainer.devices={machine.devices} and trainer.nodes={machine.nodes} "
            f"make {machine.ranks}: their product must be the number of ranks"
        )


def require_accelerator(machine: Machine) -> None:
    """Raise UserError for a GPU where torch can use none."""
    if machine.accelerator in ("gpu", "cuda") and not torch.cuda.is_available():
        raise UserError(f"trainer.accelerator={machine.accelerator}, but this machine has no GPU that torch can use")


def require_sync(machine: Machine, device: torch.device) -> None:
    """Raise UserError for a batch norm that is to be synchronised where `device` cannot."""
    if machine.sync_batchnorm and machine.ranks > 1 and device.type != "cuda":
        raise UserError(SYNC_ON_CPU)
