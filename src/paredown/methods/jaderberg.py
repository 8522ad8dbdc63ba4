"""Jaderberg et al. 2014 ("Speeding up Convolutional Neural Networks with Low Rank Expansions", arXiv 1405.3866), scheme
2: each convolution as vertical filters, then horizontal ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from paredown.layers._factors import Form
from paredown.methods._pairs import PairMethod, by_energy, choose, product, put_pair, singular_values, top1, truncate
from paredown.plan import Context, Edit, Network
from paredown.surgery.reconstruction import solve
from paredown.surgery.responses import Sampler, patches, sites, warn_of_few

FORM: Form = "spatial"


@dataclass(frozen=True)
class Jaderberg(PairMethod):
    """`reconstruct` the filters (the truncated SVD of the weights, which is the best there is), or the responses to
    training images: then the horizontal filters are fitted to samples of `images` and `positions` in each."""

    reconstruct: Literal["filter", "data"] = "filter"
    form: ClassVar[Form] = FORM

    def decomposition(self, network: Network, names: list[str], until: dict[str, Any]) -> Edit:
        """The truncation, for `data` with the fit. UserError where torch.fx cannot trace a network to be fitted."""
        if self.reconstruct == "filter":
            return Edit("decompose", truncate, {"form": FORM, "names": names, "until": until})
        sites(network.module, names)
        samples = {"images": self.images, "positions": self.positions}
        return Edit("decompose", refit, {"names": names, "until": until} | samples)


@torch.no_grad()
def refit(
    network: Network, context: Context, names: Sequence[str], until: Mapping[str, Any], images: int, positions: int
) -> dict[str, Any]:
    """`truncate` in spatial form; then from the first layer on fit the horizontal filters and their bias, under the
    inputs that the layers before now give, to the responses of the network as it was."""
    module = network.module.to(context.device).eval()
    original = copy.deepcopy(module)
    sampler = Sampler(context.data, images, positions, context.seed, context.device)
    products = {name: product(network, name, FORM) for name in names}
    ranks, found = choose(network, FORM, until, singular_values(products), by_energy)
    places = sites(original, names)
    wanted = sampler.collect(original, list(places))
    errors, shapes = {}, {}
    for name, site in places.items():
        put_pair(network, name, FORM, products[name], ranks[name], torch.zeros_like(site.shift))
        across = f"{name}.second"
        inputs, targets = sampler.collect(module, [across], patches)[across].double(), site.after(wanted[name])
        solution, errors[name] = solve(inputs, targets, None, site.relu)
        shapes[name] = tuple(inputs.shape)
        for parameter, values in zip(module.get_submodule(across).parameters(), site.before(*solution), strict=True):
            parameter.copy_(values.reshape(parameter.shape))
    warn_of_few(shapes)
    return found | {"errors": {"reconstructed": errors}} | top1(network, context)
