"""VGG-19: GraSP's sizes, and torchvision's own VGG-19 as the reference for what it computes."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.models.cifar.vgg import vgg19_bn


@pytest.mark.parametrize(
    ("side", "classes", "weights", "sizes"),
    [
        (32, 10, 20_024_000, (20_035_018, 398_136_320)),
        (32, 100, 20_070_080, (20_081_188, 398_182_400)),
        (64, 200, 20_121_280, (20_132_488, 1_592_627_200)),
    ],
)
def test_sizes_of_grasps_vgg19(measure, side, classes, weights, sizes):
    assert measure(vgg19_bn, (3, side, side), num_classes=classes) == sizes
    with torch.device("meta"):
        network = vgg19_bn(classes)
    assert sum(p.numel() for p in network.parameters() if p.dim() > 1) == weights


@pytest.mark.parametrize("side", [32, 64])
def test_features_equal_torchvisions_but_for_the_last_pool(perturb, side):
    own = perturb(vgg19_bn(10))
    other = make_layers(cfgs["E"], batch_norm=True)[:-1].eval()
    ours = [m for m in own.features if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    theirs = [m for m in other if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    assert len(ours) == len(theirs) == 32
    for mine, yours in zip(ours, theirs, strict=True):
        yours.load_state_dict(mine.state_dict(), strict=False)
        if isinstance(yours, nn.Conv2d):
            nn.init.zeros_(yours.bias)
    x = torch.randn(1, 3, side, side)
    pooled = nn.functional.avg_pool2d(other(x), side // 16).flatten(1)
    torch.testing.assert_close(own(x), own.fc(pooled))


def test_wrong_number_of_classes_is_refused():
    with pytest.raises(UserError, match=r"model\.num_classes=-1 \(at least 1\)"):
        blueprint.create({"_target_": "paredown.models.cifar.vgg.vgg19_bn", "num_classes": -1}, (3, 32, 32))
