"""Parameters that a training gives no gradient, as those of a classifier that nothing calls."""

from __future__ import annotations

import copy

import torch

from paredown.core.network import Network

IMAGES = 2  # batch norm in training has no variance of one


@torch.enable_grad()
def has_unused(network: Network) -> bool:
    """Tell whether the output of `network` in training mode does not depend on all of its parameters: ranks then have
    to look for them in each step, or wait for their gradients for ever. A copy of it is tried."""
    trial = copy.deepcopy(network.module).cpu().train()
    with torch.random.fork_rng(devices=[]):
        trial(torch.zeros(IMAGES, *network.input_shape)).sum().backward()
    return any(parameter.grad is None for parameter in trial.parameters() if parameter.requires_grad)
