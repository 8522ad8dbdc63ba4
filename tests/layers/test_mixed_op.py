"""The mixed operation against dense SVDs of every candidate, and its cost against the built design."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.deploy import deploy, prove_equal
from paredown.core.network import Network
from paredown.cost import count
from paredown.layers.factorised.pair import decompose
from paredown.layers.mixed_op import MixedConv2d
from paredown.methods.search.svd_nas.candidates import candidates, groupings
from paredown.surgery.rank_budget import rank_cost

CASES = [(6, 8, 3, 2, 1, 5), (8, 4, 1, 1, 0, 6), (4, 6, 5, 1, 2, 7)]


def listed(conv: nn.Conv2d, size: int) -> list[list]:
    return [c.point() for c in candidates(conv, size * conv.stride[0], (0.3, 0.9), 0.2)]


def conv_of(case: tuple[int, ...], bias: bool = False) -> tuple[nn.Conv2d, int]:
    torch.manual_seed(0)
    inputs, outputs, kernel, stride, padding, size = case
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=bias).double(), size


@pytest.mark.parametrize("case", CASES)
def test_every_candidate_is_the_best_approximation_of_its_design(case) -> None:
    conv, size = conv_of(case)
    points = listed(conv, size)
    layer = MixedConv2d(conv, points, [])
    layer.set_weight_(conv)
    assert len(points) >= 10
    for index, (factorisation, groups, rank, macs) in enumerate(points[:-1]):
        pair = decompose(conv, factorisation, groups, rank)
        assert torch.allclose(layer.candidate(index), pair.effective_weight(), atol=1e-10)
        assert macs == rank * rank_cost(conv, factorisation, groups, (case[0], size * case[3], size * case[3]))
    assert torch.equal(layer.candidate(len(points) - 1), conv.weight)


def test_second_branches_approximate_what_the_first_leaves() -> None:
    conv, size = conv_of(CASES[0])
    first = {"factorisation": "in_group", "groups": 2, "rank": 2}
    points = listed(conv, size)
    layer = MixedConv2d(conv, points, [first])
    layer.set_weight_(conv)
    fixed = decompose(conv, **first).effective_weight()
    left = nn.Conv2d(6, 8, 3, bias=False).double()
    left.weight = nn.Parameter(conv.weight - fixed)
    for index, (factorisation, groups, rank, _) in enumerate(points[:-1]):
        second = decompose(left, factorisation, groups, rank).effective_weight()
        assert torch.allclose(layer.candidate(index), fixed + second, atol=1e-10)
    assert layer.design(0) == [first, dict(zip(("factorisation", "groups", "rank"), points[0][:3], strict=True))]
    assert layer.design(len(points) - 1) == []


def test_a_step_mixes_two_candidates_per_image_and_expects_their_macs() -> None:
    conv, size = conv_of(CASES[0], bias=True)
    layer = MixedConv2d(conv, listed(conv, size), [])
    layer.set_weight_(conv)
    layer.pair = (3, len(layer.points) - 1)
    x = torch.randn(5, 6, 10, 10, dtype=torch.float64)
    torch.manual_seed(1)
    out = layer(x)
    torch.manual_seed(1)
    gumbels = -torch.empty(5, 2).exponential_().log()  # as torch draws them
    shares = ((torch.ones(2) + gumbels) / 1.0).softmax(1).double()
    each = [conv._conv_forward(x, layer.candidate(index), conv.bias) for index in layer.pair]
    expected = torch.stack([s[0] * a + s[1] * b for s, a, b in zip(shares, *each, strict=True)])
    assert torch.allclose(out, expected, atol=1e-6)
    macs = torch.tensor([layer.points[index][3] for index in layer.pair]).double()
    assert float(layer.expected) == pytest.approx(float((shares @ macs).mean()), rel=1e-6)
    out.sum().backward()
    assert layer.theta.grad is not None and set(layer.theta.grad.nonzero().flatten().tolist()) == set(layer.pair)


@pytest.mark.parametrize("index", [0, 5, -1])
def test_choice_deploys_counts_and_is_saved(index, tmp_path) -> None:
    torch.manual_seed(0)
    network = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 16, 16))
    conv: nn.Conv2d = network.module.get_submodule("layer1.0.conv1")  # type: ignore[assignment]
    points = listed(conv, 16)
    layer = MixedConv2d(conv, points, [])
    layer.set_weight_(conv)
    layer.choice.fill_(index % len(points))
    dense = count(network.module, (3, 16, 16)).macs
    blueprint.place(network, "layer1.0.conv1", layer, "mixed_op", points=points)
    assert count(network.module, (3, 16, 16)).macs == dense - points[-1][3] + points[index][3]
    blueprint.save(network, tmp_path)
    again: Network = blueprint.read(tmp_path)
    assert again.module.get_submodule("layer1.0.conv1").design() == layer.design()  # type: ignore[operator]
    assert prove_equal(again.module, deploy(network.module), (3, 16, 16), tolerance=1e-5) < 1e-5


def test_bases_take_less_than_half_a_dense_copy_for_each_grouping() -> None:
    """The smaller side's basis, at a rank r that saves: g m r <= m / (m + M) of the weights, at most half."""
    conv = nn.Conv2d(64, 64, 3, padding=1)
    points = [c.point() for c in candidates(conv, 8, (0.5, 0.9))]
    layer = MixedConv2d(conv, points, [])
    size = sum(buffer.numel() for name, buffer in layer.named_buffers() if name.startswith("basis"))
    assert size < 0.5 * conv.weight.numel() * len(groupings(conv)) < conv.weight.numel() * len(points) / 10
