"""Where outputs go is what the traced network does, whatever its layers are called; samples are the same for all."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown import blueprint
from paredown.errors import UserError
from paredown.surgery.low_rank import convolutions
from paredown.surgery.responses import Sampler, patches, sites, warn_of_few

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


def model(name: str, **arguments: object) -> nn.Module:
    architecture = {"_target_": f"paredown.models.{name}", **arguments}
    return blueprint.create(architecture, (3, 32, 32)).module


def relus(module: nn.Module) -> dict[str, bool]:
    return {name: site.relu for name, site in sites(module, list(convolutions(module))).items()}


@pytest.mark.parametrize(
    ("module", "behind_relu", "linear"),
    [
        (
            ("resnet.cifar_resnet", {"depth": 8}),
            ("conv", "layer2.0.conv1"),
            ("layer2.0.conv2", "layer2.0.shortcut.conv"),
        ),
        (
            ("resnet.cifar_resnet", {"depth": 8, "block": "bottleneck"}),
            ("conv", "layer1.0.conv1"),
            ("layer1.0.conv2", "layer1.0.conv3", "layer1.0.shortcut.conv"),
        ),
        (("vgg.vgg19_bn", {}), ("features.conv1_1", "features.conv5_4"), ()),
        (("mobilenet.mobilenet_v2_cifar", {}), ("stem.conv", "blocks.1.expand.conv"), ("blocks.1.project.conv",)),
        (("vision.resnet50", {}), ("conv1", "layer1.0.conv2"), ("layer1.0.conv3", "layer1.0.downsample.0")),
        (("vision.mobilenet_v2", {}), (), ("features.0.0", "features.1.conv.1")),  # ReLU6 is no ReLU
        (("vision.efficientnet_b0", {}), (), ("features.0.0",)),
        (("vision.shufflenet_v2", {}), ("conv1.0", "conv5.0", "stage2.0.branch1.2"), ()),
    ],
)
def test_every_model_is_traced_and_a_relu_found_where_it_follows(module, behind_relu, linear) -> None:
    network = model(module[0], **module[1])
    found = relus(network)
    assert set(found) == set(convolutions(network))
    assert {name: found[name] for name in behind_relu} == dict.fromkeys(behind_relu, True)
    assert {name: found[name] for name in linear} == dict.fromkeys(linear, False)


class Odd(nn.Module):
    """Layers called in another order than they are registered in, one of them twice, ReLUs as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.twice, self.first = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x))
        x = self.twice(self.bn(self.twice(x)))
        return self.last(x).relu()


def test_functions_count_too_and_the_order_is_that_of_the_calls() -> None:
    found = sites(Odd(), ["last", "twice", "first"])
    assert {name: site.relu for name, site in found.items()} == {"first": True, "twice": False, "last": True}
    assert list(found) == ["first", "twice", "last"] and (found["twice"].scale == 1).all()


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.sum() > 0 else x


def test_what_cannot_be_traced_is_refused() -> None:
    with pytest.raises(UserError, match=r"torch\.fx cannot trace Undecided"):
        sites(Undecided(), ["conv"])


def small() -> nn.Sequential:
    """Convolution, batch norm with statistics of its own and a channel it multiplies by 0, ReLU; twice; in float64."""
    torch.manual_seed(1)
    layers = [
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 6, 3, 2, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()),
    ]
    network = nn.Sequential(*layers).double()
    for norm in (network[1], network[4]):
        for values in (norm.weight.data, norm.bias.data, norm.running_mean):
            values.normal_()
        norm.running_var.uniform_(0.5, 2)
        norm.weight.data[2] = 0
    return network.eval()


def test_a_site_is_the_batch_norm_and_its_inverse() -> None:
    network = small()
    site = sites(network, ["0"])["0"]
    outputs = torch.randn(50, 8).double()
    behind = network[1](outputs[..., None, None]).flatten(1)
    torch.testing.assert_close(site.after(outputs), behind)
    weight, bias = torch.randn(8, 5).double(), torch.randn(8).double()
    x = torch.randn(50, 5).double()
    live = site.scale != 0
    entering, offset = site.before(weight, bias)
    torch.testing.assert_close(site.after(x @ entering.T + offset)[:, live], (x @ weight.T + bias)[:, live])
    assert not live.all() and not entering[~live].any() and not offset[~live].any()


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (1, 3), "padding": (0, 1), "stride": (1, 2)},
        {"kernel_size": 3, "padding": "same", "dilation": 2},
        {"kernel_size": (3, 2), "padding": 1, "padding_mode": "reflect"},
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
    network, other = small(), small()
    other[0].weight.data.mul_(2)
    other[0].bias.data.mul_(2)
    one, again = (sampler().collect(network, ["0", "3"]) for _ in range(2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert one["0"].shape == (40 * 5, 8) and one["3"].shape == (40 * 5, 6)
    torch.testing.assert_close(sampler().collect(other, ["0"])["0"], 2 * one["0"])  # alone, in another network
    assert not torch.equal(sampler(seed=4).collect(network, ["0"])["0"], one["0"])
    assert not network[0]._forward_hooks


def test_all_positions_are_all_outputs_and_images_are_a_limit() -> None:
    network, data = small(), FakeData()
    every = sampler(positions=1000).collect(network, ["0"])["0"]
    outputs = network[0](data.images).detach().permute(0, 2, 3, 1).reshape(-1, 8)
    assert every.shape == outputs.shape
    torch.testing.assert_close(every.sort(0).values, outputs.sort(0).values)
    assert len(sampler(images=19).collect(network, ["0"])["0"]) == 19 * 5
    assert len(sampler(images=900).collect(network, ["0"])["0"]) == 40 * 5


def test_the_network_runs_no_further_than_it_must() -> None:
    network = copy.deepcopy(small())
    network[4].register_forward_hook(lambda *_: pytest.fail("went on"))
    sampler().collect(network, ["0", "3"])


def test_too_few_samples_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_few({"a": (100, 10), "b": (100, 11), "c": (100, 64)})
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("2 layers have under 10 samples per dimension, c only 100 for 64")
