"""What follows a layer is what the traced network does, whatever its layers are called."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.graph.sites import sites
from paredown.surgery.factorise import convolutions
from small_networks import two_convolutions


def model(name: str, **arguments: object) -> nn.Module:
    architecture = {"_target_": f"paredown.models.{name}", **arguments}
    return blueprint.create(architecture, (3, 32, 32)).module


def relus(module: nn.Module) -> dict[str, bool]:
    return {name: site.relu for name, site in sites(module, list(convolutions(module))).items()}


@pytest.mark.parametrize(
    ("module", "behind_relu", "linear"),
    [
        (
            ("cifar.resnet.cifar_resnet", {"depth": 8}),
            ("conv", "layer2.0.conv1"),
            ("layer2.0.conv2", "layer2.0.shortcut.conv"),
        ),
        (
            ("cifar.resnet.cifar_resnet", {"depth": 8, "block": "bottleneck"}),
            ("conv", "layer1.0.conv1"),
            ("layer1.0.conv2", "layer1.0.conv3", "layer1.0.shortcut.conv"),
        ),
        (("cifar.vgg.vgg19_bn", {}), ("features.conv1_1", "features.conv5_4"), ()),
        (("cifar.mobilenet.mobilenet_v2_cifar", {}), ("stem.conv", "blocks.1.expand.conv"), ("blocks.1.project.conv",)),
        (("torchvision.resnet50", {}), ("conv1", "layer1.0.conv2"), ("layer1.0.conv3", "layer1.0.downsample.0")),
        (("torchvision.mobilenet_v2", {}), (), ("features.0.0", "features.1.conv.1")),  # ReLU6 is no ReLU
        (("torchvision.efficientnet_b0", {}), (), ("features.0.0",)),
        (("torchvision.shufflenet_v2", {}), ("conv1.0", "conv5.0", "stage2.0.branch1.2"), ()),
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


def test_a_site_is_the_batch_norm_and_its_inverse() -> None:
    network = two_convolutions()
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


class Shared(nn.Module):
    """Two convolutions followed by one batch norm, and a third whose output something else uses too."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(2.0)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.two(self.norm(self.one(x)).relu()))
        y = self.three(x)
        return self.norm(y) + y


def test_a_batch_norm_counts_for_every_layer_it_alone_follows() -> None:
    found = sites(Shared(), ["one", "two", "three"])
    assert {name: bool((site.shift == 0).all()) for name, site in found.items()} == {
        "one": False,
        "two": False,
        "three": True,
    }
    assert [site.relu for site in found.values()] == [True, False, False]


def test_a_batch_norm_without_running_statistics_is_no_affine_map() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU())
    site = sites(network, ["0"])["0"]
    assert (site.scale == 1).all() and not site.relu
