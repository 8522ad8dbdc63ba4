"""Jaderberg et al. 2014 ("Speeding up Convolutional Neural Networks with Low Rank Expansions", arXiv 1405.3866), scheme
2: each convolution as vertical filters, then horizontal ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit
from paredown.core.progress import each
from paredown.core.target import Goal
from paredown.graph.sites import sites
from paredown.layers.factorised.forms import Branch, Factorisation, weighted
from paredown.methods.families import accuracy
from paredown.methods.low_rank.pairs import PairMethod, choose, truncate
from paredown.surgery.factorise import layer, place_pair, singular_values
from paredown.surgery.reconstruct import solve
from paredown.surgery.sampling import Sampler, patches, warn_of_few

FACTORISATION: Factorisation = "vertical_first"


@dataclass(frozen=True)
class Jaderberg(PairMethod):
    """`reconstruct` the filters (the truncated SVD of the weights, their best approximation), or the responses to
    training images: then the horizontal filters are fitted to samples of `images` and `positions` in each."""

    reconstruct: Literal["filter", "data"] = "filter"
    factorisation: ClassVar[Factorisation] = FACTORISATION

    def edit(self, network: Network, names: list[str], goal: Goal) -> Edit:
        """Return the truncation, for `data` with the fit. Raise UserError where torch.fx cannot trace the network."""
        if self.reconstruct == "filter":
            return Edit("decompose", truncate, {"factorisation": FACTORISATION, "names": names, "goal": goal})
        sites(network.module, names)
        samples = {"images": self.images, "positions": self.positions}
        return Edit("decompose", refit, {"names": names, "goal": goal} | samples)


@identity("jaderberg/refit", kinds=["pair"])
@torch.no_grad()
def refit(
    network: Network, context: Context, names: Sequence[str], goal: Goal, images: int, positions: int
) -> dict[str, Any]:
    """Replace the convolutions `names` as `truncate` does; then, from the first layer on, fit the horizontal filters
    and their bias, under the inputs that the layers before now give, to the responses of the original network."""
    base = accuracy(network, context)
    module = network.module.to(context.device).eval()
    original = copy.deepcopy(module)
    sampler = Sampler(context.data, images, positions, context.seed, context.device)
    spectra = {name: singular_values(network, name, FACTORISATION) for name in names}
    ranks, found = choose(network, FACTORISATION, goal, spectra)
    places = sites(original, names)
    wanted = sampler.collect(original, list(places))
    errors, shapes = {}, {}
    for name, site in each(places.items(), "reconstruction"):
        weight = layer(network, name).weight.detach().cpu().double()
        pair = place_pair(network, name, Branch(FACTORISATION, 1, ranks[name]), weight, torch.zeros_like(site.shift))
        horizontal = weighted(pair.body)[1]
        across = f"{name}.body.1"
        inputs, targets = sampler.collect(module, [across], patches)[across].double(), site.after(wanted[name])
        solution, errors[name] = solve(inputs, targets, None, site.relu)
        shapes[name] = tuple(inputs.shape)
        for parameter, values in zip(horizontal.parameters(), site.before(*solution), strict=True):
            parameter.copy_(values.reshape(parameter.shape))
    warn_of_few(shapes)
    notes: dict[str, Any] = {"base": base, "decomposed": accuracy(network, context)}
    notes["images"] = min(images, context.data.sizes["train"])
    return found | notes | {"errors": {"reconstructed": errors}}
