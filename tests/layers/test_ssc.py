"""The pattern of SSC against worked numbers, a reference written tap by tap, and the convolutions it contains."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import conv2d

from paredown.core.deploy import deploy, prove_equal
from paredown.core.errors import UserError
from paredown.cost import count
from paredown.layers.ssc.layer import build
from paredown.layers.ssc.pattern import nonzeros, support

# M, N, K, g, p; q; weights of all; of an odd and an even filter; pairs of filters within q consecutive ones, and how
# many share no K x K channel, no 1 x 1 channel, no channel, no weight position (parity halves, then alternate)
WORKED = [
    ((8, 8, 3, 4, 2), 4, 96, (11, 13), 6, (6, 3, 0), (3, 0)),
    ((12, 6, 3, 3, 2), 3, 132, (20, 24), 3, (3, 3, 0), (3, 2)),
    ((10, 7, 3, 3, 2), 3, 114, (15, 18), 3, (3, 3, 0), (3, 2)),
    ((16, 16, 3, 4, 4), 4, 336, (19, 23), 6, (6, 6, 0), (6, 1)),
    ((16, 16, 3, 4, 1), 4, 480, (28, 32), 6, (6, 0, 0), (0, 0)),
    ((16, 16, 3, 4, 0), 4, 288, (16, 20), 6, (6, 6, 6), (6, 6)),
    ((16, 16, 3, 2, 4), 4, 608, (34, 42), 6, (4, 6, 0), (4, 0)),
    ((64, 64, 3, 8, 4), 8, 3200, (46, 54), 28, (28, 21, 0), (21, 4)),
    ((64, 64, 3, 8, 8), 8, 2752, (39, 47), 28, (28, 28, 0), (28, 6)),
    ((64, 128, 3, 4, 6), 6, 10240, (72, 88), 15, (13, 15, 4), (13, 8)),
    ((128, 128, 3, 16, 8), 16, 6528, (47, 55), 120, (120, 105, 0), (105, 24)),
    ((32, 32, 3, 32, 31), 32, 176, (5, 6), 496, (496, 496, 464), (480, 480)),
    ((16, 16, 5, 4, 2), 4, 896, (54, 58), 6, (6, 3, 0), (3, 0)),
    ((16, 16, 7, 4, 4), 4, 1616, (99, 103), 6, (6, 6, 0), (6, 1)),
    ((64, 64, 3, 64, 1), 64, 4320, (67, 68), 2016, (2016, 0, 0), (0, 0)),
    ((512, 512, 3, 32, 32), 32, 44544, (79, 95), 496, (496, 496, 16), (496, 256)),
]


def kinds(mask: Tensor) -> tuple[Tensor, Tensor]:
    """(N, M) each: where a filter has a K x K kernel (any tap off the centre), and where a lone centre tap."""
    taps, centre = mask.flatten(2), mask.shape[-1] ** 2 // 2
    spread = taps.sum(2) > taps[:, :, centre].int()
    return spread, taps.any(2) & ~spread


def disjoint_pairs(rows: Tensor) -> int:
    return sum(not (one & other).any() for one, other in combinations(rows.flatten(1), 2))


@pytest.mark.parametrize(("layer", "q", "weights", "filters", "pairs", "channels", "elements"), WORKED)
def test_worked_examples(layer, q, weights, filters, pairs, channels, elements) -> None:
    mask = support(*layer)
    spread, point = kinds(mask)
    assert max(layer[3:]) == q and math.comb(q, 2) == pairs
    assert int(mask.sum()) == weights == nonzeros(*layer)
    assert (int(mask[0].sum()), int(mask[-1].sum())) == filters
    assert tuple(disjoint_pairs(rows[:q]) for rows in (spread, point, spread | point)) == channels
    assert tuple(disjoint_pairs(support(*layer, parity=parity)[:q]) for parity in ("halves", "alternate")) == elements


@pytest.mark.parametrize(
    ("layer", "filters"),
    [
        (
            (16, 16, 3, 4, 4),
            [
                ({0, 4, 8, 12}, {5, 10, 15}),
                ({1, 5, 9, 13}, {0, 6, 11}),
                ({2, 6, 10, 14}, {1, 7, 12}),
                ({3, 7, 11, 15}, {4, 9, 14}),
                ({0, 4, 8, 12}, {5, 10, 15}),
            ],
        ),
        ((8, 8, 3, 4, 2), [({0, 4}, {2, 5, 7}), ({1, 5}, {0, 3, 6}), ({2, 6}, {1, 4, 7}), ({3, 7}, {1, 4, 6})]),
        ((10, 7, 3, 3, 2), [({3, 6, 9}, {2, 5, 8}), ({0, 4, 7}, {3, 6, 9}), ({2, 5, 8}, {1, 4, 7})]),
    ],
)
def test_published_channels(layer, filters) -> None:
    spread, point = kinds(support(*layer))
    for f, (with_window, with_point) in enumerate(filters):
        assert set(spread[f].nonzero().flatten().tolist()) == with_window
        assert set(point[f].nonzero().flatten().tolist()) == with_point


def test_an_odd_filter_is_a_plus_and_an_even_one_a_cross() -> None:
    mask = support(1, 2, 3, 1, 0).int()
    assert mask[0, 0].tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert mask[1, 0].tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize(
    ("parity", "odd"),
    [("halves", [1, 1, 1, 1, 0, 0, 0]), ("alternate", [1, 0, 1, 0, 1, 0, 1]), ("block", [1, 1, 0, 0, 1, 1, 0])],
)
def test_which_filters_are_odd(parity, odd) -> None:
    spread_weights = support(4, 7, 3, 2, 0, parity=parity).flatten(1).sum(1)
    assert spread_weights.tolist() == [2 * (4 if is_odd else 5) for is_odd in odd]


layers = st.integers(1, 20).flatmap(
    lambda inputs: st.tuples(
        st.just(inputs), st.integers(1, 24), st.sampled_from([1, 3, 5]), st.integers(0, inputs), st.integers(0, inputs)
    )
)
parities, kernels = st.sampled_from(["halves", "alternate", "block"]), st.sampled_from(["parity", "full"])


def legal(inputs: int, outputs: int, size: int, g: int, p: int) -> tuple[int, int, int, int, int]:
    g = 0 if size == 1 else g
    p = min(p, inputs - (inputs // g if g else 0))
    return inputs, outputs, size, g, max(p, 1) if g == 0 else p


def reference(inputs: int, outputs: int, size: int, g: int, p: int, parity: str, kernel: str) -> Tensor:
    """Section 2's rules, one position at a time, with channels and filters counted from 1 as in the paper."""
    base, left = [], 0
    for channel in range(1, inputs + 1):
        if g and channel % g == 0:
            base.append("window")
        else:
            left += 1
            base.append("point" if p and left % p == 0 else "empty")
    q = max(g, p)
    weights = []
    for n in range(1, outputs + 1):
        odd = {"halves": 2 * n <= outputs + 1, "alternate": n % 2 == 1, "block": (n - 1) // q % 2 == 0}[parity]
        for m in range(inputs):
            kind = base[(m - n % q) % inputs]
            for tap in range(size**2):
                window = kind == "window" and (kernel == "full" or (tap % 2 == 1) == odd)
                weights.append(window or (kind == "point" and tap == size**2 // 2))
    return torch.tensor(weights).view(outputs, inputs, size, size)


@settings(deadline=None, max_examples=60)
@given(layers, parities, kernels)
def test_support_is_the_papers_rule_and_its_count_closed(layer, parity, kernel) -> None:
    layer = legal(*layer)
    mask = support(*layer, parity=parity, kernel=kernel)
    assert torch.equal(mask, reference(*layer, parity, kernel))
    assert nonzeros(*layer, parity=parity, kernel=kernel) == int(mask.sum())


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ((8, 8, 2, 2, 2), "must be odd"),
        ((8, 8, 1, 2, 1), "g=2 must be 0"),
        ((8, 8, 3, 9, 1), r"g=9 must lie in 0..8"),
        ((8, 8, 3, -1, 1), r"g=-1 must lie in 0..8"),
        ((8, 8, 3, 2, 5), r"p=5 must lie in 0..4"),
        ((8, 8, 3, 0, 0), "leave no weights"),
        ((8, 8, 3, 2, 2, "halfs"), "parity='halfs': did you mean halves"),
        ((8, 8, 3, 2, 2, "halves", "ful"), "kernel='ful': did you mean full"),
    ],
)
def test_what_no_layer_can_have_is_one_line(layer, words) -> None:
    for function in (support, nonzeros):
        with pytest.raises(UserError, match=words) as error:
            function(*layer)
        assert "\n" not in str(error.value)


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False).double()


def images(channels: int) -> Tensor:
    return torch.randn(2, channels, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_group_wise_convolution_is_grouped_up_to_interleaving() -> None:
    groups, inputs, outputs = 4, 16, 8
    layer, x = build(conv(inputs, outputs), groups, 0, kernel="full"), images(inputs)
    into, out = (torch.arange(width).view(-1, groups).T.flatten() for width in (inputs, outputs))
    blocks = layer.weight[out][:, into].view(groups, outputs // groups, groups, -1, 3, 3)
    weight = torch.cat([blocks[c, :, c] for c in range(groups)])
    assert torch.allclose(layer(x)[:, out], conv2d(x[:, into], weight, padding=1, groups=groups))


@pytest.mark.parametrize("multiplier", [1, 2])
def test_depth_wise_convolution(multiplier: int) -> None:
    inputs, outputs = 6, 6 * multiplier
    layer, x = build(conv(inputs, outputs), inputs, 0, kernel="full"), images(inputs)
    weight = layer.weight[torch.arange(outputs), torch.arange(outputs) % inputs][:, None]
    parts = [conv2d(x, weight[i : i + inputs], padding=1, groups=inputs) for i in range(0, outputs, inputs)]
    assert torch.allclose(layer(x), torch.cat(parts, dim=1))


def test_point_wise_convolutions() -> None:
    dense, x = conv(8, 6, 1), images(8)
    assert torch.equal(build(dense, 0, 1)(x), dense(x))
    layer = build(dense, 0, 2)
    assert [row.nonzero().flatten().tolist() for row in layer.mask[:2].flatten(1)] == [[0, 2, 4, 6], [1, 3, 5, 7]]
    for half in (0, 1):
        expected = conv2d(x[:, half::2], dense.weight[half::2, half::2])
        assert torch.allclose(layer(x)[:, half::2], expected)


def test_a_group_wise_and_a_point_wise_part_add_up() -> None:
    layer, x = build(conv(64, 64), 64, 1), images(64)
    window, point = (part[:, :, None, None] for part in kinds(layer.mask))
    centre = layer.weight[:, :, 1:2, 1:2] * point
    assert layer.active_weights() == 4320
    assert torch.allclose(layer(x), conv2d(x, layer.weight * window, padding=1) + conv2d(x, centre))


@pytest.mark.parametrize(
    "arguments",
    [
        {"padding": 1},
        {"stride": 2, "padding": 1, "bias": False},
        {"dilation": 2, "padding": "same"},
        {"stride": (1, 2), "padding": (2, 0), "padding_mode": "reflect"},
    ],
)
def test_the_dense_layer_masked_and_nothing_else(arguments) -> None:
    torch.manual_seed(0)
    dense = nn.Conv2d(8, 6, 3, **arguments)
    layer, x = build(dense, 4, 2), torch.randn(2, 8, 9, 7)
    assert prove_equal(layer, deploy(layer), (8, 9, 7)) < 1e-12
    assert set(layer.state_dict()) == set(dense.state_dict())  # the pattern is no weight
    cost = count(nn.Sequential(layer), (8, 9, 7))  # raises where torch's counter disagrees
    with torch.no_grad():
        dense.weight.mul_(support(8, 6, 3, 4, 2))
    assert torch.allclose(layer(x), dense(x))
    assert cost.macs == int((dense.weight != 0).sum()) * dense(x)[0, 0].numel()


def test_kinds_of_layer_it_does_not_replace() -> None:
    for layer, words in [
        (nn.Linear(4, 4), "not a Linear"),
        (nn.Conv2d(4, 4, 3, groups=2), "groups=2"),
        (nn.Conv2d(4, 4, (3, 1)), "square"),
    ]:
        with pytest.raises(UserError, match=words):
            build(layer, 2, 1)
