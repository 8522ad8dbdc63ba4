"""What a fit runs on, and what that is good at: resolves a recipe's `auto` before anything gets a key."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import torch

from paredown.errors import UserError

log = logging.getLogger("paredown")


@dataclass(frozen=True)
class Machine:
    """What a fit runs on (conf/trainer/). Nothing here is part of a key: it must not change the result.

    `checkpoint_seconds` is the least time between two checkpoints; one is written only at the end of an epoch.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: str = "auto"
    sync_batchnorm: bool = False
    threads: int | None = None
    eval_batch_size: int = 256
    checkpoint_seconds: float = 30.0
    progress: bool = True


def device_of(accelerator: str) -> torch.device:
    """The device of one process under trainer.accelerator: CUDA where there is one and it is not ruled out."""
    return torch.device("cuda" if accelerator != "cpu" and torch.cuda.is_available() else "cpu")


def has_bf16_units(device: torch.device) -> bool:
    """Whether bf16 matrix products run in hardware: CUDA from compute capability 8.0, CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def resolve_precision(asked: str, device: torch.device) -> str:
    """'auto' becomes 'bf16' where it runs in hardware and '32' elsewhere; anything else is taken as asked.

    Raises UserError for fp16 on a CPU, which has no arithmetic for it.
    """
    asked = str(asked)
    if asked == "16" and device.type == "cpu":
        raise UserError("recipe.precision=16 needs a GPU: take auto, bf16 or 32")
    if asked == "auto":
        return "bf16" if has_bf16_units(device) else "32"
    return asked


def tell_precision(asked: str, device: torch.device) -> None:
    """Say once, before training, where the machine holds a recipe back that wants bf16."""
    if asked == "auto" and not has_bf16_units(device):
        log.info("training in fp32: this machine has no bf16 matrix units (recipe.precision=bf16 would be slower)")
    if asked == "bf16" and not has_bf16_units(device):
        log.warning("recipe.precision=bf16: this machine has no bf16 matrix units, training will be slower than at 32")
