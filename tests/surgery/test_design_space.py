"""The design space against the lists, totals and reductions worked out outside of this project."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paredown import blueprint
from paredown.cost import count
from paredown.cost.rules import macs_under
from paredown.cost.tracing import calls
from paredown.errors import UserError
from paredown.plan import Network, Target
from paredown.surgery.deploy import deploy, prove_equal
from paredown.surgery.design_space import (
    Branch,
    Prices,
    candidates,
    decompose,
    grid,
    groupings,
    limited,
    require_reach,
    targeted,
)

IMAGENET = (3, 224, 224)


def torchvisions(name: str) -> Network:
    return blueprint.create({"_target_": f"paredown.models.vision.{name}"}, IMAGENET)


def resnet8() -> Network:
    torch.manual_seed(0)
    return blueprint.create({"_target_": "paredown.models.resnet.cifar_resnet", "depth": 8}, (3, 16, 16))


# network, thop's total, parameters, gamma, layers, their MACs and weights, pairs of family and groups, candidates:
# without the grid's end, with it, and with the 1 x 1 duplicates merged
NETWORKS = [
    ("resnet18", 1_819_066_368, 11_689_512, (0.5, 0.9), 16, 1_676_279_808, 10_985_472, 285, (2079, 2336, 2336)),
    ("mobilenet_v2", 314_130_496, 3_504_872, (0.6, 0.95), 34, 267_939_840, 2_124_672, 954, (4358, 4925, 4391)),
    ("efficientnet_b0", 401_678_972, 5_288_548, (0.5, 0.95), 32, 338_537_472, 3_146_112, 1034, (6204, 6822, 6194)),
]


@pytest.mark.parametrize(("name", "thop", "params", "gamma", "layers", "macs", "weights", "pairs", "totals"), NETWORKS)
def test_the_three_networks(name, thop, params, gamma, layers, macs, weights, pairs, totals) -> None:
    network = torchvisions(name)
    convs = targeted(network.module)
    sizes = {call.name: call.output_shape[1:] for call in calls(network.module, convs, IMAGENET)}
    assert len(convs) == layers and sum(len(groupings(conv)) for conv in convs.values()) == pairs
    assert sum(conv.weight.numel() for conv in convs.values()) == weights
    assert macs_under("thop", network.module, IMAGENET) == thop
    assert sum(parameter.numel() for parameter in network.module.parameters()) == params
    choices = [{"include_end": False}, {}, {"merge": True}]
    found = [[candidates(conv, sizes[n], gamma, **how) for n, conv in convs.items()] for how in choices]
    assert tuple(sum(map(len, lists)) for lists in found) == totals
    assert sum(lists[-1].macs for lists in found[1]) == macs


STRIDED = nn.Conv2d(64, 128, 3, 2, 1, device="meta")


def test_the_candidates_of_a_single_layer() -> None:
    found = candidates(STRIDED, 28, (0.5, 0.9))
    by = {}
    for point in found[:-1]:
        by.setdefault((point.family, point.groups), []).append(point)
    ranks = {pair: [point.rank for point in points] for pair, points in by.items()}
    assert ranks["spatial", 1] == [48, 52, 57, 62, 67, 72, 76, 81, 86]
    assert ranks["in_group", 1] == [52, 57, 62, 68, 73, 78, 83, 89, 94] and ranks["in_group", 64] == [4, 5, 6, 7]
    assert ranks["out_group", 1] == [26, 28, 31, 34, 36, 39, 41, 44, 47] and ranks["out_group", 128] == [1]
    per_rank = {pair: {point.macs / point.rank for point in points} for pair, points in by.items()}
    assert per_rank["spatial", 1] == {602_112} and per_rank["in_group", 1] == {551_936}
    assert per_rank["in_group", 64] == {6_874_112} and per_rank["out_group", 128] == {26_593_280}
    last = found[-1]
    assert (last.family, last.rank, last.macs) == (None, None, 57_802_752)
    assert all(point.macs <= 0.9 * last.macs for point in found[:-1])
    assert candidates(STRIDED, (28, 28), (0.5, 0.9), 0.05) == found


def test_ends_steps_and_bad_ranges() -> None:
    assert grid((0.3, 0.7), 0.05) == pytest.approx([0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7])
    assert grid((0.6, 0.95), 0.05, include_end=False)[-1] == pytest.approx(0.9)
    assert grid((0.5, 0.5), 0.05) == [0.5] and len(grid((0.5, 0.9), 0.3)) == 2
    for gamma in ((0, 0.9), (0.5, 1), (0.9, 0.5), (-1, 2)):
        with pytest.raises(UserError, match=r"is no range within \(0, 1\)"):
            candidates(STRIDED, 28, gamma)
    with pytest.raises(UserError, match="step=0 is not above 0"):
        candidates(STRIDED, 28, (0.5, 0.9), 0)


def test_which_layers() -> None:
    assert list(targeted(resnet8().module)) == [f"layer{i}.0.conv{j}" for i in (1, 2, 3) for j in (1, 2)]
    assert list(targeted(resnet8().module, "pointwise")) == ["layer2.0.shortcut.conv", "layer3.0.shortcut.conv"]
    with pytest.raises(UserError, match=r"Sequential has no layer to decompose \(method\.select=kxk\)"):
        targeted(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, dilation=2), nn.Linear(4, 4)), "kxk")


DESIGNS = {
    "conv": [Branch("in_group", 3, 2)],
    "layer1.0.conv1": [Branch("spatial", 1, 5)],
    "layer2.0.conv1": [Branch("out_group", 4, 2), Branch("in_group", 2, 3)],
    "layer2.0.shortcut.conv": [Branch("out_group", 2, 1)],
    "fc": [Branch("in_group", 8, 2)],
}


@pytest.mark.parametrize("quantity", ["macs", "weights"])
def test_the_price_of_designs_is_what_the_counters_find(quantity) -> None:
    network = resnet8()
    prices = Prices(network, quantity)
    assert prices.total({}) == prices.dense == getattr(count(network.module, (3, 16, 16)), quantity)
    expected = prices.total(DESIGNS)
    decompose(network, DESIGNS)
    assert getattr(count(network.module, (3, 16, 16)), quantity) == expected != prices.dense
    assert prove_equal(network.module.double(), deploy(network.module), (3, 16, 16)) < 1e-9


def test_decomposing_at_full_rank_changes_nothing() -> None:
    network = resnet8()
    network.module.double().eval()
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    before = network.module(x)
    full = {"layer1.0.conv1": [Branch("in_group", 16, 9)], "layer2.0.conv1": [Branch("spatial", 1, 48)]}
    decompose(network, full | {"fc": [Branch("in_group", 1, 10)]})
    torch.testing.assert_close(network.module(x), before, rtol=0, atol=1e-9)
    assert network.blueprint["fc"] == {"kind": "grouped_pair", "family": "in_group", "groups": 1, "rank": 10}


def test_a_target_below_the_least_designs_is_refused() -> None:
    network, least = resnet8(), {"layer3.0.conv2": [Branch("spatial", 1, 1)]}
    for target in (Target("speed_up", 2), Target("sparsity", 0.9)):
        with pytest.raises(UserError, match=rf"{target} is out of reach: rank 1 everywhere gives {target.quantity}="):
            require_reach(network, target, least)
    require_reach(network, Target("sparsity", 0.2), least)
    prices, limit = limited(network, Target("sparsity", 0.2))
    assert limit == 0.8 * prices.dense >= prices.total(least)
