"""Batch-norm statistics recomputed from training images before an evaluation, where running averages lag behind."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

log = logging.getLogger("paredown")
DEFAULT_MOMENTUM = 0.1  # torch's: a training by it averages over about 10 batches
SETTLED = 3.0  # time constants after which 5 % of an exponential average is still what it began with
CUMULATIVE = (_BatchNorm.forward, nn.SyncBatchNorm.forward)  # code of others may want a number for the momentum
SUGGESTED = 2000  # images: the mean over them is within 3 % of a standard deviation


def trained_norms(module: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms of `module` that keep running statistics and are in training mode."""
    norms = (norm for norm in module.modules() if isinstance(norm, _BatchNorm))
    return [norm for norm in norms if norm.training and norm.running_mean is not None]


def warn_of_lag(norms: Iterable[_BatchNorm], steps: int) -> None:
    """Warn where `norms` average more slowly than torch's default does, so that a training of `steps` batches is too
    short for their statistics to follow the weights."""
    slowest = min((norm.momentum for norm in norms if norm.momentum), default=DEFAULT_MOMENTUM)
    if slowest < DEFAULT_MOMENTUM and slowest * steps < SETTLED:
        log.warning(
            "the batch norms of this network average over about %.0f batches, of which this training has %d: their "
            "statistics stay behind its weights; recipe.norm_images=%d recomputes them before every evaluation",
            1 / slowest,
            steps,
            SUGGESTED,
        )


@torch.no_grad()
def recompute(norms: Iterable[_BatchNorm], network: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set the running statistics of `norms` in `network`, in eval mode, to their means over the batches of `loader`:
    each layer sees the batch as the normalised layers before it hand it on. Leave every mode as it was."""
    momenta = {norm: norm.momentum for norm in norms}
    others = [norm for norm in momenta if type(norm).forward not in CUMULATIVE]
    try:
        for norm in momenta:
            norm.reset_running_stats()
            norm.momentum = None  # the cumulative mean
            norm.train()
        for number, (images, _) in enumerate(loader, 1):
            for norm in others:
                norm.momentum = 1 / number
            network(images)
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
            norm.eval()
