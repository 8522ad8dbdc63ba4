"""Filters that layers lose by themselves: which layers, how many, which ones; costs in closed form."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Goal
from paredown.cost import count
from paredown.surgery.filters import chosen, filter_groups, filters_kept
from paredown.surgery.scattering import scatter
from paredown.surgery.width_budget import WidthCost

FC = 640


def resnet(depth: int = 20, shortcut: str = "A", block: str = "basic") -> Network:
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": depth}
    return blueprint.create(architecture | {"shortcut": shortcut, "block": block}, (3, 32, 32))


def model(name: str, size: int = 32, **settings: object) -> Network:
    architecture = {"_target_": f"paredown.models.{name}", **settings}
    return blueprint.create(architecture, (3, size, size))


def widths(network: Network, keep: float | None, goal: Goal | None = None, stem: bool = True) -> dict[str, int]:
    return filters_kept(network, filter_groups(network, stem), keep, goal)


@pytest.mark.parametrize(
    ("depth", "keep", "macs", "params"),
    [  # He et al. 2018's networks: floor(n (1 - keep)) filters of every convolution, the stem's too
        (20, 0.7, 24_721_344, 160_916),
        (32, 0.7, 42_394_176, 278_664),
        (20, 0.6, 19_585_728, 130_675),
        (32, 0.6, 33_797_952, 226_933),
    ],
)
def test_the_cost_of_soft_pruned_networks(depth: int, keep: float, macs: int, params: int) -> None:
    network = resnet(depth)
    groups = filter_groups(network)
    kept = filters_kept(network, groups, keep, None)
    assert {group.size: kept[group.name] for group in groups} == (
        {16: 12, 32: 23, 64: 45} if keep == 0.7 else {16: 10, 32: 20, 64: 39}
    )
    assert WidthCost(network, groups).total(kept) == macs + FC
    assert WidthCost(network, groups, "params").total(kept) == params


@pytest.mark.slow
@pytest.mark.parametrize(
    ("depth", "keep", "macs", "params"),
    [
        (56, 0.7, 77_739_840, 514_160),
        (56, 0.6, 62_222_400, 419_449),
        (110, 0.7, 157_267_584, 1_044_026),
        (110, 0.6, 126_177_408, 852_610),
    ],
)
def test_the_cost_of_deeper_ones(depth: int, keep: float, macs: int, params: int) -> None:
    test_the_cost_of_soft_pruned_networks(depth, keep, macs, params)


@pytest.mark.parametrize(
    ("depth", "shortcut", "reads", "macs", "params"),
    [  # Li et al. 2019's networks at rate 0.25, stem and shortcuts dense
        (20, "A", "full", 26_542_080 + FC, 175_354),
        (20, "A", "previous", 23_445_504 + FC, 152_890),
        (32, "A", "full", 45_121_536 + FC, 303_034),
        (32, "A", "previous", 39_370_752 + FC, 262_426),
        (20, "B", "previous", 23_708_288, 155_642),
        (32, "B", "previous", 39_633_536, 265_178),
    ],
)
def test_the_cost_of_factorised_filters(depth: int, shortcut: str, reads: str, macs: int, params: int) -> None:
    network = resnet(depth, shortcut)
    groups = filter_groups(network, stem=False, reads=reads)  # type: ignore[arg-type]
    kept = filters_kept(network, groups, 0.75, None)
    assert WidthCost(network, groups).total(kept) == macs
    assert WidthCost(network, groups, "params").total(kept) == params


NETWORKS = {
    "resnet20_B": lambda: resnet(20, "B"),
    "bottleneck": lambda: resnet(20, "A", "bottleneck"),
    "mobilenet": lambda: model("cifar.mobilenet.mobilenet_v2_cifar", num_classes=10),
    "vgg": lambda: model("cifar.vgg.vgg19_bn", num_classes=10),
    "shufflenet": lambda: model("torchvision.shufflenet_v2", 64, num_classes=10),
    "resnet50": lambda: model("torchvision.resnet50", 64, num_classes=10),
}


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("resnet20_B", "previous"),
        ("bottleneck", "full"),
        *(pytest.param(*case, marks=SLOW) for case in itertools.product(NETWORKS, ("full", "previous"))),
    ],
)
def test_the_counters_agree_on_a_cut_network(name: str, reads: str) -> None:
    network = NETWORKS[name]()
    groups = filter_groups(network, reads=reads)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    kept = {g.name: int(torch.randint(1, g.size + 1, (1,), generator=generator)) for g in groups}
    kept[groups[1].name] = groups[1].size
    costs = {what: WidthCost(network, groups, what).total(kept) for what in ("macs", "weights", "params")}
    left = {g.name: sorted(torch.randperm(g.size)[: kept[g.name]].tolist()) for g in groups}
    scatter(network, left, reads)  # type: ignore[arg-type]
    found = count(network.module, network.input_shape)
    assert costs == {"macs": found.macs, "weights": found.weights, "params": found.params}


def test_shortcuts_keep_their_filters() -> None:
    names = [group.name for group in filter_groups(resnet(20, "B"))]
    assert len(names) == 19 and names[0] == "conv" and not any("shortcut" in name for name in names)
    assert [group.name for group in filter_groups(resnet(20, "B"), stem=False)] == names[1:]


@pytest.mark.slow
def test_shortcuts_of_torchvision_keep_theirs() -> None:
    names = [group.name for group in filter_groups(NETWORKS["resnet50"]())]
    assert len(names) == 49 and not any("downsample" in name for name in names)


def test_a_target_gives_the_largest_network_at_one_rate() -> None:
    network = resnet(20)
    groups = filter_groups(network)
    kept = filters_kept(network, groups, None, Goal("speed_up", 2.0))
    cost = WidthCost(network, groups)
    assert cost.dense / cost.total(kept) >= 2
    for group in groups:
        assert cost.dense / cost.total(kept | {group.name: kept[group.name] + 1}) < 2
        assert 0 <= kept[group.name] - {16: 10, 32: 20, 64: 39}[group.size] <= 2


def test_whole_numbers_are_exact() -> None:
    network = resnet(20)
    assert set(widths(network, 0.9).values()) == {16 - 1, 32 - 3, 64 - 6}
    ten = nn.Sequential(nn.Conv2d(3, 10, 3), nn.BatchNorm2d(10), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    ten.append(nn.Linear(10, 2))
    assert widths(Network(ten, {}, (3, 8, 8)), 0.9) == {"0": 9}  # int(10 * (1 - 0.9)) is 0 in floats


def test_wrong_numbers_are_refused() -> None:
    network = resnet(20)
    with pytest.raises(UserError, match=r"method.keep=0.99 removes no filter of 64"):
        widths(network, 0.99)
    with pytest.raises(UserError, match="out of reach: one channel a layer gives speed_up="):
        widths(network, None, Goal("speed_up", 1000.0))
    with pytest.raises(UserError, match="has no filters to cut"):
        filter_groups(model("cifar.counterparts.three_fc", num_classes=10, hidden=8))


def test_the_smallest_norms_go() -> None:
    weight = torch.tensor([[3.0, 0], [1, 0], [0, 2], [0, 1], [2, 2]])
    assert chosen(weight, 2).tolist() == [1, 3]
    assert chosen(weight, 1).tolist() == [1]  # ties: the lower index
    assert chosen(weight, 0).tolist() == []


def test_the_closest_to_the_median_go() -> None:
    weight = torch.tensor([[0.0], [1], [2], [10], [20]])  # sums of distances 33, 30, 29, 37, 67
    assert chosen(weight, 2, "distance").tolist() == [1, 2]
    assert chosen(weight, 3, "distance", by_norm=1).tolist() == [0, 2, 3]  # 0 by norm; of 1, 2, 10, 20: 29, 28, 27, 47
