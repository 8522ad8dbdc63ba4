"""Zhang et al. 2016 ("Accelerating Very Deep Convolutional Networks for Classification and Detection", arXiv
1505.06798): each convolution to fewer channels, then a 1 x 1, fitted to the responses to training images."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from paredown.core.hooks import Context
from paredown.core.keys import identity
from paredown.core.network import Network
from paredown.core.plan import Edit
from paredown.core.progress import each
from paredown.core.target import Goal, Target
from paredown.graph.sites import sites
from paredown.layers.factorised.forms import Branch, Factorisation, full_rank, kernel_shape
from paredown.methods.families import accuracy
from paredown.methods.low_rank.pairs import PairMethod, choose, truncate
from paredown.surgery.factorise import layer, place_pair
from paredown.surgery.rank_budget import limited
from paredown.surgery.reconstruct import deviations, greedy_ranks, solve
from paredown.surgery.sampling import Sampler, warn_of_few

FACTORISATION: Factorisation = "in_group"


@dataclass(frozen=True)
class Zhang(PairMethod):
    """`mode` nonlinear reconstructs the responses after the ReLU, linear those before it, svd_energy only the weights;
    `asymmetric` takes a layer's inputs from the network as compressed so far. Samples: `positions` of `images`."""

    mode: Literal["nonlinear", "linear", "svd_energy"] = "nonlinear"
    asymmetric: bool = True
    factorisation: ClassVar[Factorisation] = FACTORISATION

    def edit(self, network: Network, names: list[str], goal: Goal) -> Edit:
        """Return the reconstruction or the truncation. Raise UserError where torch.fx cannot trace the network."""
        if self.mode == "svd_energy":
            return Edit("decompose", truncate, {"factorisation": FACTORISATION, "names": names, "goal": goal})
        sites(network.module, names)
        settings = {"names": names, "goal": goal, "relu": self.mode == "nonlinear", "asymmetric": self.asymmetric}
        return Edit("decompose", approximate, settings | {"images": self.images, "positions": self.positions})


@identity("zhang/approximate", kinds=["pair"])
@torch.no_grad()
def approximate(
    network: Network,
    context: Context,
    names: Sequence[str],
    goal: Goal,
    relu: bool,
    asymmetric: bool,
    images: int,
    positions: int,
) -> dict[str, Any]:
    """Replace the convolutions `names`, in the order in which they are called, by pairs whose responses y -> M y + t
    come nearest to those of the original network: after the ReLU where `relu` and one follows, else after the batch
    norm."""
    base = accuracy(network, context)
    module = network.module.to(context.device).eval()
    original = copy.deepcopy(module)
    places = sites(original, names)
    sampler = Sampler(context.data, images, positions, context.seed, context.device)
    wanted = sampler.collect(original, list(places))
    spectra = {name: _spectrum(network, name, site.after(wanted[name])) for name, site in places.items()}
    if target := goal.target():
        goal = Goal("ranks", ranks_within(network, target, spectra))
    ranks, found = choose(network, FACTORISATION, goal, spectra)
    errors, shapes = {}, {}
    for name, site in each(places.items(), "reconstruction"):
        dense, targets = layer(network, name), site.after(wanted[name])
        inputs = site.after(sampler.collect(module, [name])[name]) if asymmetric else targets
        (weight, shift), errors[name] = solve(inputs, targets, ranks[name], relu and site.relu)
        shapes[name] = tuple(inputs.shape)
        # the inputs are scale (W x + b) + shift of the site, and what the pair gives goes through that once more
        old_bias = torch.zeros_like(shift) if dense.bias is None else dense.bias.double().cpu()
        mixing, new_bias = site.before(weight * site.scale, weight @ site.after(old_bias) + shift)
        kernels = dense.weight.detach().cpu().double()
        mixed = (mixing @ kernels.flatten(1)).reshape(kernels.shape)
        place_pair(network, name, Branch(FACTORISATION, 1, ranks[name]), mixed, new_bias)
    warn_of_few(shapes)
    notes: dict[str, Any] = {"base": base, "decomposed": accuracy(network, context)}
    notes["images"] = min(images, context.data.sizes["train"])
    return found | notes | {"errors": {"reconstructed": errors}}


def ranks_within(network: Network, target: Target, spectra: Mapping[str, Tensor]) -> dict[str, int]:
    """Return ranks that reach `target` and keep much of the product over layers of the squares of `spectra`."""
    cost, limit = limited(network, target)
    rest = cost.total({name: [] for name in spectra})
    return greedy_ranks(spectra, {name: cost.per_rank(name, FACTORISATION) for name in spectra}, limit - rest)


def _spectrum(network: Network, name: str, responses: Tensor) -> Tensor:
    """Compute the deviations of `responses` (N, n) along as many principal axes as the layer `name` has ranks."""
    return deviations(responses)[: full_rank(kernel_shape(layer(network, name)), FACTORISATION)]
