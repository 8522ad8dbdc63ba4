"""A network with its last channels masked is the narrow network, in training mode and in its gradients too."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.network import Network
from paredown.surgery.narrowing import positions, remove
from paredown.surgery.prefixes import choices_of, drawn_widths, maskable_groups, narrower, prefixes, steps_of


def create(model: str, **arguments: object) -> Network:
    torch.manual_seed(0)
    network = blueprint.create({"_target_": f"paredown.models.{model}", **arguments}, (3, 8, 8))
    network.module.double().train()
    return network


@pytest.mark.parametrize(
    "network",
    [
        lambda: create("cifar.resnet.cifar_resnet", depth=8, shortcut="A"),
        lambda: create("cifar.mobilenet.mobilenet_v2_cifar"),
    ],
    ids=["resnet", "mobilenet"],
)
def test_masked_is_narrow_in_training_with_its_gradients(network) -> None:
    masked = network()
    groups = maskable_groups(masked)
    widths = drawn_widths(groups, 0.3, steps_of(groups, 5), torch.Generator().manual_seed(2))
    small = copy.deepcopy(masked)
    gone = positions(groups, prefixes(groups, widths))
    remove(small, gone)
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    statistics = copy.deepcopy(masked.module.state_dict())
    with narrower(masked.module, groups, widths):
        logits = masked.module(images)
    expected = small.module(images)
    torch.testing.assert_close(logits, expected, rtol=1e-11, atol=1e-11)
    for name, tensor in masked.module.state_dict().items():
        assert torch.equal(tensor, statistics[name])
    logits.square().sum().backward()
    expected.square().sum().backward()
    for name, parameter in small.module.named_parameters():
        gradient = masked.module.get_parameter(name).grad
        layer = name.rpartition(".")[0]
        for axis, dim in (("out", 0), ("in", 1)):
            depthwise = axis == "in" and "depthwise" in layer
            if (layer, axis) in gone and dim < gradient.dim() and not depthwise:
                stays = [i for i in range(gradient.shape[dim]) if i not in gone[layer, axis].tolist()]
                gradient = gradient.index_select(dim, torch.tensor(stays))
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-8, atol=1e-9)


def test_synchronised_batch_norms_are_masked_and_none_is_an_error() -> None:
    network = create("cifar.resnet.cifar_resnet", depth=8)
    groups = maskable_groups(network)
    widths = {group.name: group.size // 2 for group in groups}
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    with narrower(network.module, groups, widths):
        expected = network.module(images)
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(network.module)
    assert not torch.equal(synchronised(images), expected)
    with narrower(synchronised, groups, widths):
        assert torch.equal(synchronised(images), expected)
    for name in [name for name, layer in synchronised.named_modules() if isinstance(layer, nn.SyncBatchNorm)]:
        synchronised.set_submodule(name, nn.Identity())
    with (
        pytest.raises(ValueError, match="no batch norm masks the channels at conv"),
        narrower(synchronised, groups, widths),
    ):
        pass


def test_what_no_batch_norm_follows_stays_whole() -> None:
    torch.manual_seed(0)
    network = blueprint.create({"_target_": "paredown.models.torchvision.efficientnet_b0"}, (3, 32, 32))
    names = {group.name for group in maskable_groups(network)}
    assert names and not any("fc1" in name for name in names)
    assert not any(name.endswith("block.0.0") and name.startswith("features.2") for name in names)  # gated by a fc2


def test_widths_go_down_in_steps() -> None:
    network = create("cifar.resnet.cifar_resnet", depth=8)
    group = next(g for g in maskable_groups(network) if g.size == 64)
    assert choices_of(group, 0.15, 6) == [10, 16, 22, 28, 34, 40, 46, 52, 58, 64]
    assert choices_of(group, 0.15, steps_of([group], 100)[group.name])[0] == 10
