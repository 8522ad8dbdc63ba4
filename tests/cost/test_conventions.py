"""Other papers' counts against the totals and speed-ups that those papers and their tools give."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from paredown.core.errors import UserError
from paredown.cost import count
from paredown.cost.conventions import RULES, macs_under, sparsity_under, speed_up_under, speed_ups
from paredown.layers.masked import MaskedConv2d
from paredown.models.cifar.resnet import cifar_resnet


@pytest.mark.parametrize(
    ("name", "conv", "thop"),
    [
        ("resnet18", 1_813_561_344, 1_819_066_368),
        ("mobilenet_v2", 299_494_272, 314_130_496),
        ("efficientnet_b0", None, 401_678_972),  # thop's convolutions include the biases
    ],
)
def test_torchvision_totals(name, conv, thop):
    from torchvision import models

    network = getattr(models, name)(weights=None)
    assert macs_under("thop", network, (3, 224, 224)) == thop
    assert conv in (None, macs_under("conv", network, (3, 224, 224)))


@pytest.mark.parametrize(
    ("depth", "shortcut", "conv"),
    [(20, "A", 40_550_400), (20, "B", 40_812_544), (32, "A", 68_861_952)],
)
def test_svd_trainings_networks(depth, shortcut, conv):
    network = cifar_resnet(depth, shortcut=shortcut)
    assert macs_under("conv", network, (3, 32, 32)) == conv
    assert macs_under("conv_fc", network, (3, 32, 32)) == conv + 640 == count(network, (3, 32, 32)).macs
    assert macs_under("sfp", network, (3, 32, 32)) == conv - (262_144 if shortcut == "B" else 0)


def kept(conv: nn.Conv2d, inputs: int, outputs: int) -> MaskedConv2d:
    mask = torch.zeros_like(conv.weight, dtype=torch.bool)
    mask[:outputs, :inputs] = True
    return MaskedConv2d(conv, mask)


def pruned_pairs(blocks: int, keep: float, first_dense: bool):
    """(conv, inputs kept, outputs kept) of each block's two convolutions; the inputs follow the convolution before."""
    before = 16 if first_dense else int(16 * keep)
    for stage, width in enumerate((16, 32, 64)):
        for block in range(blocks):
            inputs = width // 2 if stage and not block else width
            stride = 2 if stage and not block else 1
            after = int(width * keep)
            yield nn.Conv2d(inputs, width, 3, stride, 1, bias=False), before, after
            yield nn.Conv2d(width, width, 3, 1, 1, bias=False), after, after
            before = after


class FCFBlock(nn.Module):
    """As in CNN-FCF's code: one ReLU a module, the last one a function; the shortcut is never pruned."""

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d) -> None:
        super().__init__()
        outputs = second.out_channels
        self.left = nn.Sequential(first, nn.BatchNorm2d(outputs), nn.ReLU(), second, nn.BatchNorm2d(outputs))
        self.shortcut = nn.Identity()
        if first.in_channels != outputs:
            conv = nn.Conv2d(first.in_channels, outputs, 1, 2, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(outputs))

    def forward(self, x):
        return functional.relu(self.left(x) + self.shortcut(x))


def fcf_resnet(blocks: int, keep: float) -> nn.Module:
    convs = [kept(*pair) if keep < 1 else pair[0] for pair in pruned_pairs(blocks, keep, first_dense=True)]
    body = [FCFBlock(first, second) for first, second in zip(convs[::2], convs[1::2], strict=True)]
    stem = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*stem, *body, nn.AvgPool2d(8, stride=1), nn.Flatten(), nn.Linear(64, 10))


@pytest.mark.parametrize(("blocks", "speed_up"), [(3, 1.712), (5, 1.735), (9, 1.750)])
def test_cnn_fcf_speed_ups_at_rate_a_quarter(blocks, speed_up):
    found = speed_up_under("cnn_fcf", fcf_resnet(blocks, 0.75), fcf_resnet(blocks, 1), (3, 32, 32))
    assert found == pytest.approx(speed_up, abs=6e-4)


def test_cnn_fcf_counts_each_module_by_its_own_rule():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d((1, 2)), nn.Flatten())
    network.append(nn.Linear(4 * 6 * 3, 5))
    conv, norm, relu, pool, linear = 4 * 36 * (27 + 1), 4 * 36, 4 * 36, 4 * 6 * 3 * 2, 72 * 5 + 5
    assert macs_under("cnn_fcf", network, (3, 8, 8)) == conv + norm + relu + pool + linear
    assert macs_under("thop", network, (3, 8, 8)) == conv + 2 * norm + 72 * 5


def test_only_thop_sees_no_zeros():
    dense = cifar_resnet(20, shortcut="A")
    pruned = cifar_resnet(20, shortcut="A")
    for name, module in list(pruned.named_modules()):
        if isinstance(module, nn.Conv2d) and name != "conv":
            pruned.set_submodule(name, kept(module, module.in_channels, module.out_channels // 2))
    found = {rule: speed_up_under(rule, pruned, dense, (3, 32, 32)) for rule in RULES}
    stem = 16 * 27 * 1024
    assert found["conv"] == pytest.approx(40_550_400 / ((40_550_400 - stem) / 2 + stem))
    assert found["conv"] > found["conv_fc"] > found["cnn_fcf"] > found["thop"] == 1


def test_sfps_own_speed_up_at_seventy_percent():
    """First convolution and every first one of a block times 0.7, every second one times 0.49 (their script)."""
    dense, pruned = cifar_resnet(20, shortcut="A"), cifar_resnet(20, shortcut="A")
    for name, module in list(pruned.named_modules()):
        if isinstance(module, nn.Conv2d):
            inputs = int(module.in_channels * 0.7) if name.endswith("conv2") else module.in_channels
            pruned.set_submodule(name, kept(module, inputs, int(module.out_channels * 0.7)))
    assert speed_up_under("sfp", pruned, dense, (3, 32, 32)) == pytest.approx(1.731, rel=0.03)


def test_all_speed_ups_at_once_are_those_by_name():
    dense, half = cifar_resnet(8), cifar_resnet(8)
    half.layer3[0].conv1 = nn.Conv2d(32, 64, 1, stride=2, bias=False)
    found = speed_ups(half, dense, (3, 32, 32))
    assert found == {rule: speed_up_under(rule, half, dense, (3, 32, 32)) for rule in RULES}
    assert len({*found.values()}) > 2
    nothing = speed_ups(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), nn.Sequential(nn.Conv2d(3, 2, 2)), (3, 2, 2))
    assert "conv" not in nothing and nothing["conv_fc"] == 1.0  # no convolution is left to count


def test_sparsity_by_scope():
    dense = nn.Sequential(nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(8, 100))
    pruned = nn.Sequential(kept(nn.Conv2d(4, 8, 3), 4, 2), nn.Flatten(), nn.Linear(8, 100))
    assert sparsity_under("conv_only", pruned, dense) == 0.75
    assert sparsity_under("conv_fc", pruned, dense) == pytest.approx(1 - (72 + 800) / (288 + 800))


def test_an_unknown_rule_or_scope_is_the_users_mistake():
    with pytest.raises(UserError, match=r"^no rule 'tohp': did you mean thop\?"):
        macs_under("tohp", nn.Conv2d(3, 4, 1), (3, 8, 8))
    with pytest.raises(UserError, match=r"^no scope 'conv': did you mean .*conv_fc"):
        sparsity_under("conv", nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1))
