"""What this machine is good at: resolves a recipe's `auto` before anything gets a key."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger("paredown")


def accelerator() -> torch.device:
    """The device a single process trains on: CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def has_bf16_units() -> bool:
    """Whether bf16 matrix products run in hardware: CUDA from compute capability 8.0, CPUs with AMX or AVX512-BF16."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_capability() >= (8, 0)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def resolve_precision(asked: str) -> str:
    """'auto' becomes 'bf16' where it runs in hardware and '32' elsewhere; anything else is taken as asked."""
    if asked == "auto":
        if has_bf16_units():
            return "bf16"
        log.info("training in fp32: this machine has no bf16 matrix units (recipe.precision=bf16 would be slower)")
        return "32"
    if asked == "bf16" and not has_bf16_units():
        log.warning("recipe.precision=bf16: this machine has no bf16 matrix units, training will be slower than at 32")
    return asked
