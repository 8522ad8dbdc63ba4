"""Pairs and their sums against the dense layers they come from, numpy's SVD of each group, and the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from paredown.core import blueprint
from paredown.core.compressed import CompressedLayer
from paredown.core.deploy import prove_equal
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.layers.factorised import branches, pair
from paredown.layers.factorised.forms import full_rank, group_counts, kernel, matrices, weighted
from paredown.layers.factorised.pair import Pair, decompose

CONVS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (2, 1)},
    {"kernel_size": 4, "dilation": 2, "padding": "same", "padding_mode": "reflect"},
    {"kernel_size": 1, "stride": 2},
]
ALONG = [("vertical_first", 1), ("horizontal_first", 1)]
GROUPINGS = [*ALONG, *((factorisation, g) for factorisation in ("in_group", "out_group") for g in (1, 2, 6))]


def branch(factorisation: str, groups: int, rank: int) -> dict:
    return {"factorisation": factorisation, "groups": groups, "rank": rank}


def conv(settings: dict) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(6, 12, **settings).double()


def group_matrices(weight: np.ndarray, factorisation: str, groups: int) -> list[np.ndarray]:
    """Each group's matrix, entry by entry as the table of the factorisations has it."""
    n, c, kh, kw = weight.shape
    if factorisation == "vertical_first":
        return [
            np.array([[weight[f, i, a, b] for f in range(n) for b in range(kw)] for i in range(c) for a in range(kh)])
        ]
    if factorisation == "horizontal_first":
        return [
            np.array([[weight[f, i, a, b] for i in range(c) for b in range(kw)] for f in range(n) for a in range(kh)])
        ]
    if factorisation == "in_group":
        return [part.reshape(n, -1) for part in np.split(weight, groups, axis=1)]
    return [np.stack([part[:, i].ravel() for i in range(c)]) for part in np.split(weight, groups, axis=0)]


@pytest.mark.parametrize(("factorisation", "groups"), GROUPINGS)
@pytest.mark.parametrize("settings", CONVS)
def test_at_full_rank_it_is_the_dense_convolution(settings, factorisation, groups) -> None:
    dense, x = conv(settings), torch.randn(2, 6, 12, 14, dtype=torch.float64)
    made = decompose(dense, factorisation, groups, full_rank(tuple(dense.weight.shape), factorisation, groups))
    torch.testing.assert_close(made(x), dense(x), rtol=0, atol=1e-9)
    torch.testing.assert_close(made.effective_weight(), dense.weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("factorisation", "groups"), GROUPINGS)
def test_at_a_lower_rank_no_group_could_be_nearer(factorisation, groups) -> None:
    dense = conv(CONVS[0])
    by_hand = group_matrices(dense.weight.detach().numpy(), factorisation, groups)
    ours = matrices(dense.weight.detach(), factorisation, groups)
    assert torch.equal(kernel(ours, factorisation, tuple(dense.weight.shape)), dense.weight)
    for own, theirs in zip(ours, by_hand, strict=True):
        assert own.shape == theirs.shape
        assert np.allclose(np.linalg.svd(own.numpy())[1], np.linalg.svd(theirs)[1])
    for rank in (1, 2, 3):
        made = decompose(dense, factorisation, groups, rank)
        error = float((made.effective_weight() - dense.weight).square().sum())
        least = sum((np.linalg.svd(matrix)[1][rank:] ** 2).sum() for matrix in by_hand)  # Eckart and Young
        assert error == pytest.approx(least, rel=1e-9)
        x = torch.randn(1, 6, 9, 9, dtype=torch.float64)
        whole = nn.functional.conv2d(x, made.effective_weight(), dense.bias, padding=1)
        torch.testing.assert_close(made(x), whole, rtol=0, atol=1e-9)
    first, second = weighted(made.body)
    assert first.bias is None and torch.equal(second.bias, dense.bias)
    assert float(first.weight.norm()) == pytest.approx(float(second.weight.norm()))  # split evenly


# c, n, kernel, stride, output height and width; the input is as large as the output, times the stride
LAYERS = [(8, 12, (3, 3), (1, 1), (6, 6)), (64, 128, (3, 3), (2, 2), (28, 28)), (8, 4, (5, 5), (1, 2), (5, 7))]
LAYERS += [(12, 8, (1, 1), (1, 1), (7, 7))]


@pytest.mark.parametrize(("c", "n", "kernel", "stride", "output"), LAYERS)
def test_cost_is_linear_in_the_rank_and_as_torch_counts(c, n, kernel, stride, output) -> None:
    (kh, kw), (sh, sw), area = kernel, stride, output[0] * output[1]
    dense = nn.Conv2d(c, n, kernel, stride, padding=(kh // 2, kw // 2), bias=False, device="meta")
    shape = (c, output[0] * sh, output[1] * sw)
    for g in (1, 2, 4):
        formulas = {
            "in_group": (min(n, c // g * kh * kw), area * g * (n + c // g * kh * kw), g * (n + c // g * kh * kw)),
            "out_group": (
                min(c, n // g * kh * kw),
                area * g * (c * sh * sw + n // g * kh * kw),
                g * (c + n // g * kh * kw),
            ),
        }
        if g == 1:
            formulas["horizontal_first"] = (min(n * kh, c * kw), area * (n * kh + c * kw * sh), n * kh + c * kw)
            formulas["vertical_first"] = (min(c * kh, n * kw), area * (c * kh * sw + n * kw), c * kh + n * kw)
        for factorisation, (highest, macs, weights) in formulas.items():
            assert full_rank(tuple(dense.weight.shape), factorisation, g) == highest
            made = Pair(dense, factorisation, g, rank := min(3, highest), bias=False)
            assert made.full_rank == highest
            with FlopCounterMode(display=False) as counter:
                assert made(torch.empty(1, *shape, device="meta")).shape[2:] == output
            assert made.macs(shape) == rank * macs == counter.get_total_flops() // 2
            assert made.active_weights() == rank * weights == sum(p.numel() for p in made.parameters())


@pytest.mark.parametrize("groups", [1, 3])
def test_a_linear_layer_in_groups_of_its_inputs(groups) -> None:
    torch.manual_seed(0)
    dense, x = nn.Linear(12, 10).double(), torch.randn(4, 12, dtype=torch.float64)
    parts = dense.weight.detach().numpy().reshape(10, groups, -1)
    for rank in (2, full_rank((10, 12, 1, 1), "in_group", groups)):
        made = decompose(dense, "in_group", groups, rank)
        least = sum((np.linalg.svd(parts[:, g])[1][rank:] ** 2).sum() for g in range(groups))
        assert float((made.effective_weight() - dense.weight).square().sum()) == pytest.approx(least, abs=1e-12)
        torch.testing.assert_close(made(x), x @ made.effective_weight().T + dense.bias)
        assert made.macs((12,)) == made.active_weights() == rank * (groups * 10 + 12)
        torch.testing.assert_close(made.deployed()(x), made(x))


@pytest.mark.parametrize("leading", [(), (5,), (2, 7), (2, 3, 4)])
@pytest.mark.parametrize("groups", [1, 3])
def test_a_linear_layer_takes_features_behind_any_dimensions(groups: int, leading: tuple[int, ...]) -> None:
    """Tokens (B, T, C), maps with the channels last (B, H, W, C)."""
    torch.manual_seed(0)
    made = decompose(nn.Linear(12, 10).double(), "in_group", groups, 2)
    x = torch.randn(*leading, 12, dtype=torch.float64)
    expected = np.apply_along_axis(made.effective_weight().detach().numpy().__matmul__, -1, x.numpy())
    torch.testing.assert_close(made(x), torch.from_numpy(expected) + made.deployed()[-1].bias)
    assert made.macs((*leading, 12)) == int(np.prod(leading)) * 2 * (groups * 10 + 12)


def test_the_state_of_a_linear_layer_in_groups_has_the_names_that_it_had() -> None:
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in decompose(nn.Linear(12, 10), "in_group", 3, 2).state_dict().items()
    }
    assert shapes == {"body.1.weight": (6, 4, 1, 1), "body.3.weight": (10, 6), "body.3.bias": (10,)}


def test_two_branches_add_up_and_the_second_is_the_best_of_what_is_left() -> None:
    dense, x = conv(CONVS[1] | {"bias": True}), torch.randn(2, 6, 8, 8, dtype=torch.float64)
    designs = [
        {"factorisation": "horizontal_first", "groups": 1, "rank": 4},
        {"factorisation": "out_group", "groups": 2, "rank": 3},
    ]
    layer = branches.build(dense, designs)
    layer.set_weight_(dense.weight, dense.bias)
    first = decompose(dense, "horizontal_first", 1, 4)
    residual = nn.Conv2d(6, 12, 3, 2, 1, bias=False).double()
    residual.weight = nn.Parameter((dense.weight - first.effective_weight()).detach())
    second = decompose(residual, "out_group", 2, 3)
    torch.testing.assert_close(layer(x), first(x) + second(x))
    torch.testing.assert_close(layer.effective_weight(), first.effective_weight() + second.effective_weight())
    assert layer.macs((6, 8, 8)) == first.macs((6, 8, 8)) + second.macs((6, 8, 8))
    assert layer.active_weights() + 12 == sum(parameter.numel() for parameter in layer.parameters())
    assert prove_equal(layer, layer.deployed(), (6, 8, 8)) < 1e-9
    assert not [module for module in layer.deployed().modules() if isinstance(module, CompressedLayer)]


def test_pairs_branches_and_the_classifier_survive_saving(tmp_path) -> None:
    network: Network = blueprint.create(
        {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 8, 8)
    )
    pairs = [
        {"factorisation": "in_group", "groups": 4, "rank": 2},
        {"factorisation": "horizontal_first", "groups": 1, "rank": 3},
    ]
    blueprint.rewrite(network, "layer1.0.conv1", "pair", **pairs[0])
    blueprint.rewrite(network, "layer2.0.conv1", "branches", branches=pairs)
    blueprint.rewrite(network, "fc", "pair", factorisation="in_group", groups=8, rank=2)
    blueprint.rewrite(network, "layer3.0.conv1", "pair", factorisation="vertical_first", groups=1, rank=2, bias=True)
    x = torch.randn(2, 3, 8, 8)
    blueprint.save(network, tmp_path)
    assert torch.equal(blueprint.load(tmp_path)(x), network.module.eval()(x))


@pytest.mark.parametrize(
    ("dense", "design", "says"),
    [
        (nn.Conv2d(6, 12, 3), ("in_groups", 1, 1), r"no factorisation 'in_groups': did you mean .*in_group"),
        (nn.Conv2d(6, 12, 3), ("in_group", 4, 1), r"groups=4 is none of \[1, 2, 3, 6\]"),
        (nn.Conv2d(6, 12, 3), ("horizontal_first", 2, 1), r"groups=2 is none of \[1\]"),
        (
            nn.Conv2d(6, 12, 3),
            ("out_group", 2, 7),
            "rank 7 is not .* 6, the full rank of out_group with groups=2",
        ),
        (nn.Conv2d(6, 12, 3), ("in_group", 1, 0), "rank 0 is not between 1 and 12"),
        (nn.Conv2d(6, 12, 3, groups=2), ("in_group", 1, 1), "not a Conv2d with groups=2"),
        (nn.BatchNorm2d(6), ("in_group", 1, 1), "not a BatchNorm2d"),
        (nn.Linear(6, 12), ("out_group", 1, 1), "a Linear is factorised as in_group only, not as out_group"),
    ],
)
def test_what_has_no_such_form_is_named(dense, design, says) -> None:
    with pytest.raises(UserError, match=says):
        pair.build(dense, *design)


def test_no_branches_are_none() -> None:
    with pytest.raises(UserError, match="at least one branch"):
        branches.build(nn.Conv2d(6, 12, 3), [])
    assert group_counts((12, 6, 3, 3), "in_group") == [1, 2, 3, 6]


def test_a_bias_that_the_dense_layer_lacks_is_added() -> None:
    dense, x, bias = conv(CONVS[1]), torch.randn(2, 6, 8, 8, dtype=torch.float64), torch.randn(12).double()
    with_bias, without = pair.build(dense, "in_group", 2, 4, bias=True), decompose(dense, "in_group", 2, 4)
    with_bias.set_weight_(dense.weight, bias)
    torch.testing.assert_close(with_bias(x), without(x) + bias[:, None, None])
    with_bias.set_weight_(dense.weight)
    torch.testing.assert_close(with_bias(x), without(x))
