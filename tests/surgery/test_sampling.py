"""Samples of responses against the layers themselves; the same for every network and call."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from paredown.surgery.sampling import Sampler, patches, warn_of_few
from small_networks import two_convolutions

CPU = torch.device("cpu")


class FakeData:
    """Training batches of fixed random images, `dtype` as asked for."""

    def __init__(self, images: int = 40, size: int = 6, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(images, 3, size, size, generator=generator, dtype=dtype)

    def train_loader(self, batch_size: int, seed: int, device: torch.device) -> Iterator[tuple[Tensor, None]]:
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(seed))
        yield from ((self.images[rows], None) for rows in order.split(16))


def sampler(images: int = 40, positions: int = 5, seed: int = 3) -> Sampler:
    return Sampler(FakeData(), images, positions, seed, CPU)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (1, 3), "padding": (0, 1), "stride": (1, 2)},
        {"kernel_size": 3, "padding": "same", "dilation": 2},
        {"kernel_size": (3, 2), "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": 2, "padding": "same"},
    ],
)
def test_patches_are_what_the_weight_meets(settings) -> None:
    conv = nn.Conv2d(3, 4, **settings).double()
    x = torch.randn(2, 3, 7, 9).double()
    output = conv(x)
    met = patches(conv, x, output)
    torch.testing.assert_close(
        torch.einsum("np,bphw->bnhw", conv.weight.flatten(1), met) + conv.bias[:, None, None], output
    )


def test_samples_are_the_same_at_every_call_and_in_every_network() -> None:
    network, other = two_convolutions(), two_convolutions()
    other[0].weight.data.mul_(2)
    other[0].bias.data.mul_(2)
    one, again = (sampler().collect(network, ["0", "3"]) for _ in range(2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert one["0"].shape == (40 * 5, 8) and one["3"].shape == (40 * 5, 6)
    torch.testing.assert_close(sampler().collect(other, ["0"])["0"], 2 * one["0"])  # alone, in another network
    assert not torch.equal(sampler(seed=4).collect(network, ["0"])["0"], one["0"])
    assert not network[0]._forward_hooks


def test_positions_differ_from_batch_to_batch() -> None:
    """Every image shows the position of each pixel, so that a sample tells where it was taken."""
    data = FakeData()
    data.images = torch.arange(36.0).reshape(1, 1, 6, 6).expand(40, 3, 6, 6).double()
    sampled = Sampler(data, 40, 5, 3, CPU).collect(nn.Sequential(nn.Identity()), ["0"])["0"]  # type: ignore[arg-type]
    first, second = sampled[: 16 * 5, 0], sampled[16 * 5 : 32 * 5, 0]
    assert not torch.equal(first, second)


def test_all_positions_are_all_outputs_and_images_are_a_limit() -> None:
    network, data = two_convolutions(), FakeData()
    every = sampler(positions=1000).collect(network, ["0"])["0"]
    outputs = network[0](data.images).detach().permute(0, 2, 3, 1).reshape(-1, 8)
    assert every.shape == outputs.shape
    torch.testing.assert_close(every.sort(0).values, outputs.sort(0).values)
    assert len(sampler(images=19).collect(network, ["0"])["0"]) == 19 * 5
    assert len(sampler(images=900).collect(network, ["0"])["0"]) == 40 * 5


def test_the_network_runs_no_further_than_it_must() -> None:
    network = copy.deepcopy(two_convolutions())
    network[4].register_forward_hook(lambda *_: pytest.fail("went on"))
    sampler().collect(network, ["0", "3"])


def test_too_few_samples_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_few({"a": (100, 10), "b": (100, 11), "c": (100, 64)})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("2 layers have under 10 samples per dimension, c only 100 for 64")
