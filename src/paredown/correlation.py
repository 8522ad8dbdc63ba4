"""How alike the filters of a layer are: the redundancy measure of the SSC paper (section 4.3, Fig. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paredown.layers.branches import Branches
from paredown.layers.conv_pair import ConvPair
from paredown.layers.grouped_pair import GroupedPair
from paredown.layers.low_rank import LowRankConv2d
from paredown.layers.masked import effective_weight
from paredown.surgery.deploy import within


@torch.no_grad()
def filter_correlation(weight: Tensor) -> float:
    """Mean |Pearson's r| over all pairs of the N filters of `weight` (N, ...), structural zeros included, each filter
    with itself too, so at least 1/N. The paper prints sigma as a sum of deviations, which is 0; it is read as their
    variance. A constant filter correlates with none."""
    filters = weight.detach().flatten(1).double()
    centred = filters - filters.mean(dim=1, keepdim=True)
    norms = centred.norm(dim=1, keepdim=True)
    varies = norms > 1e-12 * filters.norm(dim=1, keepdim=True)  # a constant filter's mean is off by rounding
    directions = torch.where(varies, centred / norms, 0.0)
    return float((directions @ directions.T).abs().mean())


def layer_correlations(module: nn.Module) -> dict[str, float]:
    """`filter_correlation` of every convolution of `module` that is not depthwise, by name, in module order; of a
    factorised one, that of the one convolution that computes the same."""
    found: dict[str, float] = {}
    factorised = ""
    for name, layer in module.named_modules():
        inside = factorised and within(name, factorised)
        if isinstance(layer, LowRankConv2d | ConvPair | GroupedPair | Branches) and not inside:
            factorised, weight = name, layer.effective_weight()
            found |= {name: filter_correlation(weight)} if weight.dim() == 4 else {}
        elif (
            isinstance(layer, nn.Conv2d) and not inside and (layer.groups < layer.in_channels or layer.in_channels == 1)
        ):
            found[name] = filter_correlation(effective_weight(layer))
    return found
