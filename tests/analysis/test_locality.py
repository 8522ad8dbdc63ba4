"""Locality against closed forms, brute force and shapes whose answer is plain."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from paredown.analysis.locality import first_filters, locality, mass, neighbours, radius, window_share
from paredown.models.cifar.counterparts import counterpart
from paredown.models.cifar.resnet import cifar_resnet


def random_masses(count: int = 5, height: int = 12, width: int = 14) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(count, height, width, generator=generator, dtype=torch.float64)
    return values * (torch.rand(count, height, width, generator=generator) < 0.1)


@pytest.mark.parametrize(("side", "expected"), [(32, 13.058), (9, 3.651)])
def test_the_radius_of_a_flat_filter(side, expected) -> None:
    flat = radius(torch.ones(1, side, side, dtype=torch.float64)).item()
    assert flat == pytest.approx(expected, abs=5e-4) == pytest.approx(math.sqrt((side**2 - 1) / 6), abs=5e-4)


def test_the_window_share_of_a_flat_filter() -> None:
    assert window_share(torch.ones(1, 32, 32, dtype=torch.float64)).item() == pytest.approx(81 / 1024)
    assert window_share(torch.ones(1, 6, 32, dtype=torch.float64)).item() == pytest.approx(9 / 32)


def test_all_three_by_brute_force() -> None:
    for values in random_masses():
        pixels = [(r, c, float(values[r, c])) for r in range(12) for c in range(14)]
        total = sum(m for *_, m in pixels)
        row, column = (sum(p[axis] * p[2] for p in pixels) / total for axis in (0, 1))
        spread = sum(((r - row) ** 2 + (c - column) ** 2) * m for r, c, m in pixels) / total
        windows = [values[r : r + 9, c : c + 9].sum() / total for r in range(4) for c in range(6)]
        there = [(r, c) for r, c, m in pixels if m]
        near = [any(0 < max(abs(r - y), abs(c - x)) <= 1 for y, x in there) for r, c in there]
        assert radius(values[None]).item() == pytest.approx(math.sqrt(spread))
        assert window_share(values[None]).item() == pytest.approx(float(max(windows)))
        assert neighbours(values[None]).item() == pytest.approx(sum(near) / len(near))


def test_the_mass_of_a_pixel_sums_over_channels() -> None:
    filters = torch.tensor([[[[1.0, -2.0]], [[-3.0, 0.0]]]])
    assert mass(filters).tolist() == [[[4, 2]]]


def test_a_patch_is_local_and_its_shuffle_is_not() -> None:
    filters = torch.zeros(4, 3, 32, 32)
    filters[:, :, 10:16, 5:11] = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    patch = locality(filters)
    order = torch.randperm(1024, generator=torch.Generator().manual_seed(1))
    shuffled = locality(filters.flatten(2)[:, :, order].unflatten(2, (32, 32)))
    assert patch["window_share"] == 1 and patch["neighbours"] == 1 and patch["radius"] < 3
    assert patch["radius_z"] < -5 and patch["window_share_z"] > 5 and patch["neighbours_z"] > 5
    assert all(abs(shuffled[f"{name}_z"]) < 3 for name in ("radius", "window_share", "neighbours"))


def test_a_z_score_that_no_shuffle_can_have_is_left_out() -> None:
    dense = locality(torch.randn(3, 3, 16, 16))
    assert dense["neighbours"] == 1 and "neighbours_z" not in dense and "radius_z" in dense
    assert locality(torch.zeros(0, 3, 8, 8)) == {}


@pytest.mark.parametrize("connection", ["fc", "local"])
def test_filters_are_what_a_unit_sees_of_the_image(connection) -> None:
    network = counterpart("s", connection, 2, image_size=(8, 8))
    filters = first_filters(network, (3, 8, 8), most=100)
    assert filters.shape == (32, 3, 8, 8)
    image = torch.randn(1, 3, 8, 8)
    outputs = network.conv1(image if connection == "local" else image.flatten(1)).flatten()
    seen = (filters * image).sum(dim=(1, 2, 3))
    torch.testing.assert_close(seen.sort().values, outputs.sort().values, rtol=1e-4, atol=1e-5)


def test_filters_with_fewer_than_20_weights_are_not_drawn() -> None:
    network = counterpart("s", "fc", 2, image_size=(8, 8))
    with torch.no_grad():
        for unit in range(32):
            network.conv1.weight[unit, unit:] = 0
    filters = first_filters(network, (3, 8, 8), most=100)
    assert sorted(filters.flatten(1).count_nonzero(dim=1).tolist()) == list(range(20, 32))
    some = first_filters(network, (3, 8, 8), most=5)
    assert torch.equal(some, filters[:5])
    assert not torch.equal(some, first_filters(network, (3, 8, 8), most=5, seed=1))


def test_the_filters_of_a_convolution_are_its_kernels() -> None:
    network = cifar_resnet(8)
    filters = first_filters(network, (3, 32, 32), most=100)
    assert filters.shape == (16, 3, 3, 3)
    assert isinstance(network.conv, nn.Conv2d)
    assert torch.equal(filters.sum().round(decimals=4), network.conv.weight.detach().sum().round(decimals=4))
