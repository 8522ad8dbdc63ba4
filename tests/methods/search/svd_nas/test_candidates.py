"""SVD-NAS's design space against lists, totals and reductions worked out independently."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.cost import count
from paredown.cost.conventions import macs_under
from paredown.cost.tracing import calls
from paredown.layers.factorised.branches import Branches
from paredown.layers.factorised.forms import FACTORISATIONS, Branch, group_counts, kernel_shape
from paredown.layers.factorised.low_rank import decompose as low_rank
from paredown.layers.factorised.pair import build
from paredown.layers.mixed_op import MixedConv2d, mixed_ops
from paredown.methods.search.svd_nas.candidates import candidates, grid, groupings
from paredown.methods.search.svd_nas.space import open_second, open_space
from paredown.surgery.factorise import convolutions
from paredown.surgery.rank_budget import DesignCost, rank_cost

IMAGENET = (3, 224, 224)


def torchvisions(name: str) -> Network:
    return blueprint.create({"_target_": f"paredown.models.torchvision.{name}"}, IMAGENET)


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
    convs = convolutions(network.module, "auto")
    sizes = {call.name: call.input_shape[1:] for call in calls(network.module, convs, IMAGENET)}
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
    found = candidates(STRIDED, 56, (0.5, 0.9))
    by = {}
    for point in found[:-1]:
        by.setdefault((point.factorisation, point.groups), []).append(point)
    ranks = {pair: [point.rank for point in points] for pair, points in by.items()}
    assert ranks["horizontal_first", 1] == [48, 52, 57, 62, 67, 72, 76, 81, 86]
    assert ranks["in_group", 1] == [52, 57, 62, 68, 73, 78, 83, 89, 94] and ranks["in_group", 64] == [4, 5, 6, 7]
    assert ranks["out_group", 1] == [26, 28, 31, 34, 36, 39, 41, 44, 47] and ranks["out_group", 128] == [1]
    per_rank = {pair: {point.macs / point.rank for point in points} for pair, points in by.items()}
    assert per_rank["horizontal_first", 1] == {602_112} and per_rank["in_group", 1] == {551_936}
    assert per_rank["in_group", 64] == {6_874_112} and per_rank["out_group", 128] == {26_593_280}
    last = found[-1]
    assert (last.factorisation, last.rank, last.macs) == (None, None, 57_802_752)
    assert all(point.macs <= 0.9 * last.macs for point in found[:-1])
    assert candidates(STRIDED, (56, 56), (0.5, 0.9), 0.05) == found


def test_ends_steps_and_bad_ranges() -> None:
    assert grid((0.3, 0.7), 0.05) == pytest.approx([0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7])
    assert grid((0.6, 0.95), 0.05, include_end=False)[-1] == pytest.approx(0.9)
    assert grid((0.5, 0.5), 0.05) == [0.5] and len(grid((0.5, 0.9), 0.3)) == 2
    for gamma in ((0, 0.9), (0.5, 1), (0.9, 0.5), (-1, 2)):
        with pytest.raises(UserError, match=r"is no range within \(0, 1\)"):
            candidates(STRIDED, 28, gamma)
    with pytest.raises(UserError, match="step=0 is not above 0"):
        candidates(STRIDED, 28, (0.5, 0.9), 0)
    with pytest.raises(UserError, match=r"^second_step=-1 is not above 0"):
        grid((0.05, 0.4), -1, branch="second_")
    with pytest.raises(UserError, match=r"gamma=0\.5 to 0\.5 without its end holds no fraction"):
        grid((0.5, 0.5), 0.1, include_end=False)


KERNELS = [((1, 1), 0, 1), ((3, 3), 1, 1), ((3, 3), 0, 1), ((3, 1), (1, 0), 1), ((5, 3), (2, 1), 1), ((3, 3), 2, 2)]
STRIDES = [1, 2, (2, 1), 3]
SIZES = [(7, 7), (8, 8), (9, 6), (15, 15)]
CONVS = [
    (nn.Conv2d(6, 4, kernel, stride, padding, dilation, padding_mode=mode), size)
    for (kernel, padding, dilation), stride, size in itertools.product(KERNELS, STRIDES, SIZES)
    for mode in ("zeros", "circular")
    if mode == "zeros" or (padding and size == (9, 6))
]


@pytest.mark.parametrize(("conv", "size"), CONVS, ids=lambda value: str(value).replace(", ", ","))
def test_every_candidate_is_priced_at_what_is_built(conv, size) -> None:
    """By the two counters of the built layer, for odd and even maps alike."""
    shape = (6, *size)
    found = candidates(conv, size, (0.1, 0.9), 0.4)
    assert found[-1].macs == count(conv, shape).macs
    for candidate in found[:-1]:
        pair = build(conv, candidate.factorisation, candidate.groups, candidate.rank)
        assert candidate.macs == count(pair, shape).macs <= 0.9 * found[-1].macs + 1e-6
    for factorisation in FACTORISATIONS:
        groups = group_counts(kernel_shape(conv), factorisation)[-1]
        branches = [{"factorisation": factorisation, "groups": groups, "rank": 1}] * 2
        price = rank_cost(conv, factorisation, groups, shape)
        assert 2 * price == count(Branches(conv, branches), shape).macs
        if groups == 1:
            assert 2 * price == count(low_rank(conv, factorisation, 2), shape).macs


class Twice(nn.Module):
    """A convolution that is called at two sizes, one after a strided layer and one on windows in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, stride=2, padding=1)

    def forward(self, x):
        x = self.conv(self.first(x))
        windows = x.unfold(2, 5, 1).unfold(3, 5, 1)[0].permute(1, 2, 0, 3, 4).flatten(0, 1)
        return self.conv(windows).mean((2, 3))


def test_a_layer_of_several_calls_is_priced_over_all_of_them() -> None:
    def network() -> Network:
        return Network(Twice(), {}, (3, 15, 15))

    prices, context = DesignCost(network()), Context(None, torch.device("cpu"), 0)
    for factorisation, groups in groupings(Twice().conv):
        design = [Branch(factorisation, groups, 2)]
        made = network()
        made.module.conv = build(made.module.conv, factorisation, groups, 2)
        assert prices.total({"conv": design}) == count(made.module, (3, 15, 15)).macs
    opened = network()
    open_space(opened, context, ["conv"], (0.5, 0.9), 0.2, True, False, None)
    dense = prices.layer("conv")
    for second in (False, True):
        if second:
            mixed_ops(opened.module)["conv"].choice.fill_(0)
            open_second(opened, context, (0.05, 0.4), 0.1, 0.2)
        layer = mixed_ops(opened.module)["conv"]
        assert isinstance(layer, MixedConv2d) and len(layer.points) > 3
        for index, point in enumerate(layer.points):
            layer.choice.fill_(index)
            assert point[3] - dense == count(opened.module, (3, 15, 15)).macs - prices.dense
