"""Interspace pruning (Wimmer, Mehnert and Condurache, CVPR 2022): the edit that lets a saliency prune coefficients of
kernels in a trained basis in the place of weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, cast

import torch

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.layers.interspace import InterspaceConv2d, fits

Basis = Literal["standard", "orthonormal"]


@identity("interspace", kinds=["interspace"])
def interspace(network: Network, context: Context, names: Sequence[str], basis: Basis) -> None:
    """Make each convolution of `names` an `interspace` one of the same kernels: its basis the unit kernels, or
    orthonormal ones drawn by the stage's seed."""
    generator = torch.Generator().manual_seed(context.seed)
    for name in names:
        blueprint.rewrite(network, name, "interspace")
        layer = cast(InterspaceConv2d, network.module.get_submodule(name))
        if basis == "orthonormal":
            drawn = torch.randn(layer.basis.shape, dtype=torch.float64, generator=generator)
            layer.change_basis(torch.linalg.qr(drawn).Q.to(layer.basis))


def convolutions(network: Network) -> list[str]:
    """Return the names of the convolutions of `network` that the kind fits. Raise UserError where there is none."""
    names = [name for name, layer in network.module.named_modules() if fits(layer)]
    if not names:
        raise UserError("method.interspace=true needs a convolution without groups and of kernels above 1 x 1")
    return names


def rewritten(network: Network, names: Sequence[str]) -> Network:
    """Return a copy of `network` with the layers `names` of the kind `interspace`; itself for none."""
    made = copy.deepcopy(network) if names else network
    for name in names:
        blueprint.rewrite(made, name, "interspace")
    return made
