"""Low-rank surgery on a network: the convolutions to factorise, and pairs of layers in their place."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

import torch
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.layers.factorised.branches import Branches
from paredown.layers.factorised.forms import Branch, Factorisation, matrices
from paredown.layers.factorised.pair import Pair
from paredown.layers.replaceable import is_replaceable
from paredown.surgery.rank_budget import Designs

Select = Literal["all", "trp", "auto", "kxk", "pointwise"]


def convolutions(module: nn.Module, select: Select = "all") -> dict[str, nn.Conv2d]:
    """Return the convolutions with groups=1 to factorise, by name; raise UserError where there is none. `all`; `trp`
    (Xu et al. 2020): larger than 1 x 1, of stride 1, not the first; of dilation 1 and (SVD-NAS) `kxk`: larger than
    1 x 1, not the first, or `pointwise`: 1 x 1 outside squeeze-and-excitation, whose layers torchvision names fc;
    `auto`: pointwise in a network with depthwise layers, else kxk."""
    convs = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}
    if select == "auto":
        select = "pointwise" if any(conv.groups == conv.in_channels > 1 for conv in convs.values()) else "kxk"
    first = next(iter(convs), None)
    found = {
        name: conv
        for name, conv in convs.items()
        if conv.groups == 1 and is_replaceable(conv) and _selected(select, name, conv, name == first)
    }
    if not found:
        raise UserError(f"{type(module).__name__} has no convolution to factorise (method.select={select})")
    return found


def _selected(select: Select, name: str, conv: nn.Conv2d, first: bool) -> bool:
    pointwise, plain = conv.kernel_size == (1, 1), conv.dilation == (1, 1)
    if select == "trp":
        return not (first or pointwise) and conv.stride == (1, 1)
    if select == "kxk":
        return not (first or pointwise) and plain
    return select == "all" or (pointwise and plain and "fc" not in name)


def layer(network: Network, name: str) -> nn.Conv2d | nn.Linear:
    """Return the convolution or linear layer `name`. Raise UserError where it is neither."""
    found = network.module.get_submodule(name)
    if not isinstance(found, nn.Conv2d | nn.Linear):
        raise UserError(f"{name} is a {type(found).__name__}, not a convolution or a linear layer")
    return found


def singular_values(network: Network, name: str, factorisation: Factorisation) -> Tensor:
    """Return those of the layer `name` in one group (r,), largest first, in float64 on the CPU."""
    weight = layer(network, name).weight.detach().cpu().double()
    return torch.linalg.svdvals(matrices(weight, factorisation)[0])


def dense_twin(network: Network) -> Network:
    """Return the dense network of the same architecture, freshly initialised; torch's generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        return blueprint.create(network.architecture, network.input_shape)


def place_pair(network: Network, name: str, branch: Branch, weight: Tensor, bias: Tensor | None) -> Pair:
    """Replace the layer `name` by the pair that best approximates `weight`, of the layer's shape, and adds `bias` (n,);
    return the pair."""
    arguments = asdict(branch) | {"bias": bias is not None}
    pair = Pair(layer(network, name), **arguments)
    pair.set_weight_(weight, bias)
    blueprint.place(network, name, pair, "pair", **arguments)
    return pair


def decompose(network: Network, designs: Designs) -> None:
    """Replace each layer of `designs` by its best approximation: pairs by the SVD of each group's matrix; of several
    branches each approximates the error of those before it."""
    for name, design in designs.items():
        dense = layer(network, name)
        if len(design) == 1:
            place_pair(network, name, design[0], dense.weight.detach(), dense.bias)
            continue
        branches = [asdict(branch) for branch in design]
        pairs = Branches(dense, branches)
        pairs.set_weight_(dense.weight.detach(), dense.bias)
        blueprint.place(network, name, pairs, "branches", branches=branches)
