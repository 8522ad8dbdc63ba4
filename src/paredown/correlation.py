"""How alike the filters of a layer are: the redundancy measure of the SSC paper (section 4.3, Fig. 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paredown.layers.masked import effective_weight


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
    """`filter_correlation` of every convolution of `module` that is not depthwise, by name, in module order."""
    convolutions = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Conv2d)}
    return {
        name: filter_correlation(effective_weight(layer))
        for name, layer in convolutions.items()
        if layer.groups < layer.in_channels or layer.in_channels == 1
    }
