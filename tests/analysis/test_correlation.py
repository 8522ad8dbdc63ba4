"""The filters' correlation against worked values and numpy's Pearson coefficients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from paredown.analysis.correlation import filter_correlation, layer_correlations
from paredown.core import blueprint
from paredown.layers.ssc import layer as ssc


def test_worked_values() -> None:
    assert filter_correlation(torch.tensor([[1.0, 2, 3, 4], [2, 1, 4, 3]])) == pytest.approx(0.8)
    # filters on disjoint positions do not have r = 0: their means are not 0
    assert filter_correlation(torch.eye(4)[:2]) == pytest.approx(2 / 3)


def test_it_is_the_mean_absolute_pearson_coefficient() -> None:
    torch.manual_seed(0)
    weight = torch.randn(7, 5, 3, 3)
    expected = np.abs(np.corrcoef(weight.flatten(1).double().numpy())).mean()
    assert filter_correlation(weight) == pytest.approx(expected, abs=1e-12)
    assert filter_correlation(3 * weight + 2) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("constant", [0.0, 0.1, 1e-9, -7.0])
def test_a_constant_filter_correlates_with_none(constant: float) -> None:
    weight = torch.stack([torch.full((9,), constant), torch.arange(9.0), torch.full((9,), constant)])
    assert filter_correlation(weight) == pytest.approx(1 / 9)  # the one filter that varies, with itself


def test_layers_count_with_their_zeros_in_place() -> None:
    torch.manual_seed(0)
    sparse = ssc.build(nn.Conv2d(16, 16, 3), 4, 4)
    depthwise = nn.Conv2d(16, 16, 3, groups=16)
    network = nn.Sequential(nn.Conv2d(3, 16, 3), sparse, depthwise, nn.Flatten(), nn.Linear(4, 4))
    values = layer_correlations(network)
    assert list(values) == ["0", "1"]
    sparse.weight.data[~sparse.mask] = torch.randn(int((~sparse.mask).sum()))
    assert layer_correlations(network) == values
    assert values["1"] == pytest.approx(
        np.abs(np.corrcoef(sparse.deployed().weight.detach().flatten(1))).mean(), abs=1e-6
    )


FACTORISED = [
    ("low_rank", {"factorisation": "vertical_first", "rank": 5}),
    ("pair", {"factorisation": "vertical_first", "groups": 1, "rank": 5}),
    ("pair", {"factorisation": "in_group", "groups": 2, "rank": 5}),
    ("branches", {"branches": [{"factorisation": "horizontal_first", "groups": 1, "rank": 5}] * 2}),
]


@pytest.mark.parametrize(("kind", "arguments"), FACTORISED)
def test_a_factorised_layer_counts_as_the_convolution_it_computes(kind, arguments) -> None:
    network = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 8, 8))
    dense = layer_correlations(network.module)
    blueprint.rewrite(network, "layer2.0.conv1", kind, **arguments)
    blueprint.rewrite(network, "fc", "pair", factorisation="in_group", groups=4, rank=2)
    found = layer_correlations(network.module)
    layer = network.module.get_submodule("layer2.0.conv1")
    assert list(found) == list(dense) and found["layer2.0.conv1"] == filter_correlation(layer.effective_weight())
