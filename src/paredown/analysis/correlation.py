"""Correlation between the filters of a layer: the redundancy measure of the SSC paper (section 4.3, Fig. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paredown.core.deploy import within
from paredown.layers.factorised.branches import Branches
from paredown.layers.factorised.low_rank import LowRankConv2d
from paredown.layers.factorised.pair import Pair
from paredown.layers.masked import effective_weight


@torch.no_grad()
def filter_correlation(weight: Tensor) -> float:
    """Compute the mean |Pearson's r| over all pairs of the N filters of `weight` (N, ...), structural zeros and each
    filter with itself included, so at least 1/N. The paper prints sigma as the sum of deviations, which is always 0; it
    is taken to be their variance. The correlation of a constant filter is 0."""
    filters = weight.detach().flatten(1).double()
    centred = filters - filters.mean(dim=1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    varies = norms > 1e-12 * filters.norm(dim=1, keepdim=True)  # the mean of a constant filter has a rounding error
    directions = torch.where(varies, centred / norms, 0.0)
    return float((directions @ directions.T).abs().mean())


def layer_correlations(module: nn.Module) -> dict[str, float]:
    """Compute `filter_correlation` of every convolution of `module` that is not depthwise, by name, in module order;
    for a factorised layer, of the equivalent single convolution."""
    found: dict[str, float] = {}
    factorised = ""
    for name, layer in module.named_modules():
        inside = factorised and within(name, factorised)
        if isinstance(layer, LowRankConv2d | Pair | Branches) and not inside:
            factorised, weight = name, layer.effective_weight()
            found |= {name: filter_correlation(weight)} if weight.dim() == 4 else {}
        elif (
            isinstance(layer, nn.Conv2d) and not inside and (layer.groups < layer.in_channels or layer.in_channels == 1)
        ):
            found[name] = filter_correlation(effective_weight(layer))
    return found
