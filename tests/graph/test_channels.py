"""The groups of the project's networks have the sizes that their architectures say, in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.graph.channels import Channels, channels


def found(model: str, **arguments: object) -> Channels:
    network = blueprint.create({"_target_": f"paredown.models.{model}", **arguments}, (3, 32, 32))
    return channels(network.module, network.input_shape)


def resnet(depth: int, shortcut: str, block: str = "basic") -> Channels:
    return found("cifar.resnet.cifar_resnet", depth=depth, shortcut=shortcut, block=block)


EXPECTED = {  # channels, groups
    "A": (lambda: resnet(20, "A"), 3 * 112 + 64, 12),
    "B": (lambda: resnet(20, "B"), 3 * 112 + 112, 12),
    "bottleneck A": (lambda: resnet(20, "A", "bottleneck"), 3 * 2 * 112 + 256, 22),
    "bottleneck B": (lambda: resnet(20, "B", "bottleneck"), 3 * 2 * 112 + 4 * 112 + 16, 22),
    "vgg": (lambda: found("cifar.vgg.vgg19_bn"), 2 * 64 + 2 * 128 + 4 * 256 + 8 * 512, 16),
    "mobilenet": (lambda: found("cifar.mobilenet.mobilenet_v2_cifar"), 9160, 26),
    "torchvision": (lambda: found("torchvision.mobilenet_v2"), 9128, 25),
    "shufflenet": (lambda: found("torchvision.shufflenet_v2"), 24 + 2088 + 1024 + 29, 19),
    "efficientnet": (lambda: found("torchvision.efficientnet_b0"), 11404, 40),
    "resnet50": (lambda: found("torchvision.resnet50"), 64 + 2 * 3776 + 3840, 37),
    "d_conv": (lambda: found("cifar.counterparts.counterpart", family="d", connection="conv"), 872, 9),
    "s_fc": (lambda: found("cifar.counterparts.counterpart", family="s", connection="fc"), 8 * 256 + 192, 2),
    "s_local": (lambda: found("cifar.counterparts.counterpart", family="s", connection="local"), 192, 1),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_channels_and_groups(name: str) -> None:
    make, size, number = EXPECTED[name]
    groups = make().groups
    assert (sum(group.size for group in groups), len(groups)) == (size, number)
    assert len({group.name for group in groups}) == number


def test_the_trunk_of_option_a_is_three_groups_that_the_padding_joins() -> None:
    groups = {group.name: group for group in resnet(20, "A").groups}
    trunk = [groups[name] for name in ("conv", "layer2.0.conv2", "layer3.0.conv2")]
    assert [group.size for group in trunk] == [16, 16, 32] and all(group.summed for group in trunk)
    shortcut = {(m.layer, m.axis): m.table[:, 0].tolist() for m in trunk[1].members if "shortcut" in m.layer}
    # the padding of stage 2 makes channels 16-31, and stage 3's shortcut takes them on
    assert shortcut == {
        ("layer2.0.shortcut", "out"): list(range(16, 32)),
        ("layer3.0.shortcut", "in"): list(range(16, 32)),
        ("layer3.0.shortcut", "out"): list(range(16, 32)),
    }
    assert not groups["layer1.0.conv1"].summed


def test_a_flattened_channel_has_all_its_columns() -> None:
    group = next(g for g in found("cifar.counterparts.counterpart", family="d", connection="conv").groups[7:8])
    columns = next(member.table for member in group.members if member.layer == "fc1")
    assert columns.tolist() == [[4 * channel + place for place in range(4)] for channel in range(128)]


def test_shuffled_orbits_have_sixteen_channels() -> None:
    group = next(group for group in found("torchvision.shufflenet_v2").groups if group.size == 29)
    assert next(m.table.shape for m in group.members if m.layer == "conv5.0") == (29, 16)


def test_what_is_not_followed_is_named() -> None:
    assert found("cifar.counterparts.counterpart", family="s", connection="local").unfollowed == (
        "conv1 (LocallyConnected2d)",
    )
    assert not resnet(20, "A").unfollowed


def test_modes_and_statistics_stay() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2)).train()
    channels(module, (3, 3, 3))
    assert all(layer.training for layer in module.modules())
    assert torch.equal(module[1].running_mean, torch.zeros(8)) and not module[1].num_batches_tracked


def test_a_network_that_cannot_be_traced_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match=r"torch.fx cannot trace Branching"):
        channels(Branching(), (3, 4, 4))
