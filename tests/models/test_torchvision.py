"""torchvision's networks: untouched where nothing is asked, and the sizes of their CIFAR stems."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import nn

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.models import torchvision as vision

NAMES = {
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "mobilenet_v2": "mobilenet_v2",
    "efficientnet_b0": "efficientnet_b0",
    "shufflenet_v2": "shufflenet_v2_x1_0",
}


@pytest.mark.parametrize(("name", "original"), NAMES.items())
def test_imagenet_stem_computes_what_torchvisions_does(perturb, name, original):
    own = perturb(getattr(vision, name)(num_classes=7))
    other = getattr(torchvision.models, original)(num_classes=7).eval()
    other.load_state_dict(own.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(own(x), other(x))


@pytest.mark.parametrize(
    ("name", "parameters", "macs"),
    [
        ("resnet18", 11_689_512, 1_813_561_344 + 512_000),
        ("resnet50", 25_557_032, 4_089_184_256),
        ("mobilenet_v2", 3_504_872, 299_494_272 + 1_280_000),
    ],
)
def test_imagenet_sizes(measure, name, parameters, macs):
    assert measure(getattr(vision, name), (3, 224, 224)) == (parameters, macs)


def test_efficientnet_size_agrees_with_a_count_that_adds_the_biases(measure):
    parameters, macs = measure(vision.efficientnet_b0, (3, 224, 224))
    convs = [m for m in vision.efficientnet_b0().modules() if isinstance(m, nn.Conv2d)]
    biases = sum(conv.out_channels for conv in convs if conv.bias is not None)  # squeeze-excite: one pixel each
    assert (parameters, macs + biases) == (5_288_548, 384_544_092 + 1_280_000)


@pytest.mark.parametrize(("width", "parameters"), [(0.5, 352_042), (1, 1_263_854), (1.5, 2_488_874), (2, 5_365_486)])
def test_shufflenet_widths(measure, width, parameters):
    assert measure(vision.shufflenet_v2, (3, 32, 32), num_classes=10, width=width)[0] == parameters


def test_shufflenets_pointwise_weights():
    convs = [m for m in vision.shufflenet_v2(10).modules() if isinstance(m, nn.Conv2d)]
    assert sum(conv.weight.numel() for conv in convs if conv.kernel_size == (1, 1)) == 1_214_636


def test_size_of_resnet18_with_the_cifar_stem(measure):
    # By hand: four 3x3 layers a stage on 32, 16, 8 and 4 pixels, and a 1x1 projection in the last three.
    stem = 64 * 27 * 32**2
    stage1 = 4 * 64 * 64 * 9 * 32**2
    later = sum((c * c // 2 * 9 + 3 * c * c * 9 + c * c // 2) * s**2 for c, s in ((128, 16), (256, 8), (512, 4)))
    sizes = measure(vision.resnet18, (3, 32, 32), num_classes=10, stem="cifar")
    assert sizes == (11_173_962, stem + stage1 + later + 5120)


# The sides of the first two convolutions' outputs; the second comes after the max-pool, where there is one.
@pytest.mark.parametrize(
    ("name", "stem", "sides_of_two"),
    [
        ("resnet18", "imagenet", [16, 8]),
        ("resnet18", "cifar", [32, 32]),
        ("resnet50", "imagenet", [16, 8]),
        ("resnet50", "cifar", [32, 32]),
        ("mobilenet_v2", "imagenet", [16, 16]),
        ("mobilenet_v2", "cifar", [32, 32]),
        ("efficientnet_b0", "imagenet", [16, 16]),
        ("efficientnet_b0", "cifar", [32, 32]),
        ("shufflenet_v2", "imagenet", [16, 4]),  # its second convolution has stride 2 itself
        ("shufflenet_v2", "cifar", [32, 16]),
    ],
)
def test_stem_sets_the_first_resolutions(name, stem, sides_of_two):
    network = getattr(vision, name)(num_classes=10, in_channels=1, stem=stem).eval()
    sides = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _layer, _inputs, output: sides.append(output.shape[-1]))
    assert network(torch.randn(1, 1, 32, 32)).shape == (1, 10)
    assert sides[:2] == sides_of_two


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("name", NAMES)
def test_a_replaced_first_convolution_starts_as_torchvisions_do(name, stem):
    """Kaiming's normal with fan-out, as torchvision initialises all convolutions of these five networks."""
    torch.manual_seed(0)
    conv = next(m for m in getattr(vision, name)(in_channels=7, stem=stem).modules() if isinstance(m, nn.Conv2d))
    expected = math.sqrt(2 / (conv.out_channels * conv.kernel_size[0] ** 2))
    error = 6 / math.sqrt(2 * conv.weight.numel())  # six standard errors
    assert conv.in_channels == 7 and conv.bias is None
    assert conv.weight.std().item() == pytest.approx(expected, rel=error)
    assert abs(conv.weight.mean().item()) < 6 * expected / math.sqrt(conv.weight.numel())


def test_other_channels_keep_every_other_layer(measure):
    for stem in ("imagenet", "cifar"):
        rgb = measure(vision.resnet18, (3, 32, 32), stem=stem)[0]
        gray = measure(vision.resnet18, (1, 32, 32), stem=stem, in_channels=1)[0]
        assert rgb - gray == 2 * 64 * (49 if stem == "imagenet" else 9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"stem": "cifr"}, ["stem='cifr'", "did you mean cifar"]),
        ({"width": 0.7}, ["width=0.7", "0.5, 1.0, 1.5, 2.0"]),
        ({"in_channels": 0}, ["in_channels=0", "at least 1"]),
    ],
)
def test_wrong_values_are_named_with_right_ones(arguments, words):
    with pytest.raises(UserError) as raised:
        blueprint.create({"_target_": "paredown.models.torchvision.shufflenet_v2"} | arguments, (3, 32, 32))
    assert all(word in str(raised.value) for word in words), str(raised.value)
