"""Zhang et al. 2016 ("Accelerating Very Deep Convolutional Networks for Classification and Detection", arXiv
1505.06798): each convolution to fewer channels, then a 1 x 1, such that the responses to training images stay."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from paredown.layers._factors import Form, full_rank
from paredown.methods._pairs import PairMethod, choose, product, put_pair, top1, truncate
from paredown.plan import Context, Edit, Network
from paredown.surgery.reconstruction import deviations, greedy_ranks, solve
from paredown.surgery.responses import Sampler, sites, warn_of_few

FORM: Form = "channel"


@dataclass(frozen=True)
class Zhang(PairMethod):
    """`mode` nonlinear reconstructs responses behind the ReLU, linear before it, svd_energy only the weights;
    `asymmetric` takes a layer's inputs from the network as compressed so far. Samples: `positions` of `images`."""

    mode: Literal["nonlinear", "linear", "svd_energy"] = "nonlinear"
    asymmetric: bool = True
    form: ClassVar[Form] = FORM

    def decomposition(self, network: Network, names: list[str], until: dict[str, Any]) -> Edit:
        """The reconstruction or the truncation. UserError where torch.fx cannot trace the network."""
        if self.mode == "svd_energy":
            return Edit("decompose", truncate, {"form": FORM, "names": names, "until": until})
        sites(network.module, names)
        settings = {"names": names, "until": until, "relu": self.mode == "nonlinear", "asymmetric": self.asymmetric}
        return Edit("decompose", approximate, settings | {"images": self.images, "positions": self.positions})


@torch.no_grad()
def approximate(
    network: Network,
    context: Context,
    names: Sequence[str],
    until: Mapping[str, Any],
    relu: bool,
    asymmetric: bool,
    images: int,
    positions: int,
) -> dict[str, Any]:
    """Make the convolutions `names` pairs, the first to be called first, whose responses y -> M y + t come nearest to
    those of the network as it was: behind the ReLU where `relu` and one follows, else behind the batch norm."""
    module = network.module.to(context.device).eval()
    original = copy.deepcopy(module)
    places = sites(original, names)
    sampler = Sampler(context.data, images, positions, context.seed, context.device)
    convs: dict[str, nn.Conv2d] = {name: original.get_submodule(name) for name in places}  # type: ignore[misc]
    wanted = sampler.collect(original, list(places))
    axes = {name: deviations(site.after(wanted[name])) for name, site in places.items()}
    kept = {name: s[: full_rank(convs[name], FORM)] for name, s in axes.items()}
    ranks, found = choose(network, FORM, until, kept, greedy_ranks)
    errors, shapes = {}, {}
    for name, site in places.items():
        targets = site.after(wanted[name])
        inputs = site.after(sampler.collect(module, [name])[name]) if asymmetric else targets
        (weight, shift), errors[name] = solve(inputs, targets, ranks[name], relu and site.relu)
        shapes[name] = tuple(inputs.shape)
        # the inputs are scale (W x + b) + shift of the site, and what the pair gives goes through that once more
        old_bias = torch.zeros_like(shift) if (bias := convs[name].bias) is None else bias.double().cpu()
        mixing, new_bias = site.before(weight * site.scale, weight @ site.after(old_bias) + shift)
        put_pair(network, name, FORM, mixing @ product(network, name, FORM), ranks[name], new_bias)
    warn_of_few(shapes)
    return found | {"errors": {"reconstructed": errors}} | top1(network, context)
