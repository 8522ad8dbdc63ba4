"""Theorem 2 on its worked example and on the paper's networks, whose edges and shared weights are counted apart."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from paredown.analysis.description_length import Description, describe
from paredown.core.errors import UserError
from paredown.layers.masked import build
from paredown.models.cifar.counterparts import counterpart


def test_the_worked_example() -> None:
    toy = Description(edges=1000, values=10, nonzeros=50)
    assert toy.bits(16) - 160 == pytest.approx(684.317, abs=5e-4)
    gaps = {units: toy.gap(50_000, 16, 0.05, units) for units in ("mixed", "bits", "nats")}
    assert gaps == pytest.approx({"mixed": 0.092462, "bits": 0.092715, "nats": 0.077190}, abs=5e-7)
    assert toy.gap(50_000) == gaps["mixed"]


@pytest.mark.parametrize(
    ("connection", "values", "nonzeros", "gap"),
    [("conv", 397_080, 826_080, 20.11), ("local", 826_080, 826_080, 21.95), ("fc", 6_686_592, 6_686_592, 64.05)],
)
def test_the_shallow_networks_at_alpha_8(connection, values, nonzeros, gap) -> None:
    network = counterpart("s", connection, 8)
    with torch.no_grad():  # of seven million random starts one may be exactly 0
        for name in ("conv1", "fc1", "fc2"):
            weight = getattr(network, name).weight
            weight.fill_(1) if connection != "local" or name != "conv1" else weight.copy_(network.conv1.live * 1.0)
    found = describe(network, (3, 32, 32))
    # zero is one more value where some edge is zero
    assert (found.edges, found.nonzeros) == (6_686_592, nonzeros)
    assert found.values == values + (connection != "fc")
    assert found.gap(50_000) == pytest.approx(gap, abs=0.005)


@pytest.mark.parametrize(("kept", "gap"), [(334_329, 13.81), (66_865, 6.05)])
def test_what_is_left_of_s_fc(kept, gap) -> None:
    assert Description(6_686_592, kept, kept).gap(50_000) == pytest.approx(gap, abs=0.005)


def test_edges_and_their_weights_against_the_matrix_of_the_whole_layer() -> None:
    torch.manual_seed(0)
    conv = build(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2))
    conv.set_mask(torch.rand(conv.weight.shape) < 0.3)
    inputs = torch.eye(4 * 7 * 5).view(-1, 4, 7, 5)
    matrix = nn.functional.conv2d(inputs, conv.effective_weight(), None, 2, 1, 1, 2).flatten(1)
    found = describe(nn.Sequential(conv, nn.BatchNorm2d(6), nn.Flatten()), (4, 7, 5))
    assert found == Description(matrix.numel(), int(conv.mask.sum()) + 1, int(matrix.count_nonzero()))


def test_the_network_is_left_as_it_was() -> None:
    network = counterpart("s", "conv", 1, image_size=(8, 8), bias=True)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    describe(network, (3, 8, 8))
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_fewer_weights_are_a_shorter_description() -> None:
    lengths = [Description(10_000, kept, kept).bits() for kept in (10, 100, 1_000, 10_000)]
    assert lengths == sorted(lengths)
    assert lengths[0] == pytest.approx(160 + 10 * math.log2(1e5) + 2 * math.log2(1e4))


def test_unknown_units_are_refused() -> None:
    with pytest.raises(UserError, match="no units 'nat': did you mean nats"):
        Description(10, 1, 1).gap(10, units="nat")
