"""What the process of whoever calls the API keeps: its random generators, torch's defaults, the environment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from paredown.api.loaders import generators_kept


@contextmanager
def undisturbed() -> Iterator[None]:
    """Leave this process's random generators, and what a training sets beside them, as they were; work in torch's own
    defaults, whichever are set here."""
    benchmark, dtype, place = torch.backends.cudnn.benchmark, torch.get_default_dtype(), torch.get_default_device()
    seeded = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    elsewhere = nullcontext() if place.type == "cpu" else torch.device("cpu")
    torch.set_default_dtype(torch.float32)
    try:
        with generators_kept(), torch.inference_mode(False), torch.enable_grad(), elsewhere:
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.backends.cudnn.benchmark = benchmark
        for name, value in seeded.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
