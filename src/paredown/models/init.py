"""The initialisation of this package's networks."""

from __future__ import annotations

from torch import nn


def initialise(module: nn.Module) -> None:
    """Initialise by GraSP's protocol (Wang et al. 2020). Convolutions: He's normal with fan-out, standard deviation
    sqrt(2 / (k^2 * out)) (He et al. 2015, arXiv 1502.01852, section 2.2); classifiers: N(0, 0.01), bias 0; batch norm:
    1 and 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
