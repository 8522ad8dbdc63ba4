"""Locally connected layers against a loop over positions, a convolution with tied weights and the dense matrix."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from paredown.core.deploy import deploy, prove_equal
from paredown.cost import count
from paredown.layers.local import LocallyConnected2d
from paredown.layers.masked import build

SHAPES = [(3, 2, 9, 2, 4, (12, 8)), (2, 5, 3, 1, 1, (6, 6)), (4, 3, 3, 2, 1, (8, 6)), (1, 2, 1, 1, 0, (3, 4))]


def layer(channels, features, kernel, stride, padding, size) -> LocallyConnected2d:
    torch.manual_seed(0)
    return LocallyConnected2d(channels, features, kernel, stride, padding, size).double()


@pytest.mark.parametrize("shape", SHAPES)
def test_with_tied_weights_it_is_the_convolution(shape) -> None:
    channels, features, kernel, stride, padding, size = shape
    local = layer(*shape)
    conv = nn.Conv2d(channels, features, kernel, stride, padding, bias=False).double()
    with torch.no_grad():
        local.weight.copy_(conv.weight.flatten(1).T.expand_as(local.weight))
    x = torch.randn(3, channels, *size, dtype=torch.float64)
    torch.testing.assert_close(local(x), conv(x))


@pytest.mark.parametrize("shape", SHAPES)
def test_its_filters_on_the_whole_input_are_the_fully_connected_form(shape) -> None:
    local, x = layer(*shape), torch.randn(2, shape[0], *shape[-1], dtype=torch.float64)
    units = local(x)[0].numel()
    matrix = local.filters(torch.arange(units)).flatten(1)
    torch.testing.assert_close(local(x).flatten(1), x.flatten(1) @ matrix.T)
    some = torch.tensor([units - 1, 0, 1])
    assert torch.equal(local.filters(some).flatten(1), matrix[some])


def test_each_position_has_its_own_kernel() -> None:
    local, x = layer(2, 5, 3, 1, 1, (4, 6)), torch.randn(1, 2, 4, 6, dtype=torch.float64)
    padded = functional.pad(x, (1, 1, 1, 1))
    for row in range(4):
        for column in range(6):
            patch = padded[0, :, row : row + 3, column : column + 3].flatten()
            torch.testing.assert_close(local(x)[0, :, row, column], patch @ local.weight[row * 6 + column])


@pytest.mark.parametrize(
    ("shape", "live", "taps"),
    [
        ((3, 1, 9, 2, 4, (32, 32)), 53_868, 62_208),
        ((8, 1, 3, 2, 1, (32, 32)), 17_672, 18_432),
        ((16, 1, 3, 1, 1, (16, 16)), 33_856, 36_864),
    ],
)
def test_dead_taps_are_not_counted(shape, live, taps) -> None:
    local = layer(*shape)
    assert local.weight.numel() == taps
    assert local.active_weights() == int(local.weight.count_nonzero()) == live
    cost = count(nn.Sequential(local), (shape[0], *shape[-1]))
    assert (cost.macs, cost.params, cost.weights) == (live, live, live)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_dead_taps_are_not_trained(optimizer) -> None:
    local = layer(2, 3, 5, 2, 2, (6, 6))
    before = local.weight.detach().clone()
    settings = {"sgd": (torch.optim.SGD, {"momentum": 0.9}), "adam": (torch.optim.Adam, {})}
    kind, more = settings[optimizer]
    steps = kind(local.parameters(), 0.1, weight_decay=0.1, **more)
    for _ in range(3):
        steps.zero_grad()
        local(torch.randn(4, 2, 6, 6, dtype=torch.float64)).square().sum().backward()
        steps.step()
    dead = ~local.live.expand_as(local.weight)
    assert dead.any() and not local.weight[dead].any()
    assert (local.weight[~dead] != before[~dead]).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("masked", [False, True])
def test_deployed_computes_the_same_and_both_counters_agree(shape, masked) -> None:
    local = layer(*shape)
    if masked:
        local = build(local)
        local.set_mask(torch.rand(local.weight.shape) < 0.4)
        assert local.active_weights() == int(local.mask.sum()) == int(local.weight.count_nonzero())
    assert not any(isinstance(module, LocallyConnected2d) for module in deploy(local).modules())
    assert prove_equal(local, deploy(local), (shape[0], *shape[-1])) < 1e-12
    assert count(nn.Sequential(local), (shape[0], *shape[-1])).macs == local.active_weights()


def test_a_mask_never_revives_a_dead_tap() -> None:
    local = build(layer(1, 1, 3, 1, 1, (3, 3)))
    live = local.active_weights()
    assert live == 49  # 4 corners of 4, 4 edges of 6, 9 inside
    local.set_mask(torch.ones_like(local.mask))
    assert local.active_weights() == live


def test_it_starts_as_a_convolution_of_the_same_fan_in_does() -> None:
    local = layer(4, 64, 3, 1, 1, (8, 8))
    bound = 36**-0.5
    assert local.weight.abs().max() <= bound
    alive = local.weight[local.live.expand_as(local.weight)]
    assert alive.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
