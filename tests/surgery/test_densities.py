"""Densities of sparse starts: worked numbers of Erdos-Renyi-Kernel, exact sums, multiply-adds, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Target
from paredown.cost import count
from paredown.layers.replaceable import LEFT_ALONE
from paredown.methods.sparse.gradual import Gradual
from paredown.surgery.densities import Start, allocate, proportions, start_counts
from paredown.surgery.moves import Layer
from paredown.surgery.sparsify import layer_counts, macs_per_weight, masked_layers, require_kept, sizes

STARTS: tuple[Start, ...] = ("uniform", "erk", "er")
COUNTERPART = "paredown.models.cifar.counterparts.counterpart"
MODELS = {
    "resnet": {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8},
    "local": {"_target_": COUNTERPART, "family": "s", "connection": "local", "alpha": 2, "image_size": [8, 8]},
}


def network(model: str = "resnet") -> Network:
    torch.manual_seed(0)
    return blueprint.create(MODELS[model], (3, 8, 8))


def four_layers() -> Network:
    """The specification's example: 24,112 weights."""
    layers = [nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 64, 3), nn.Flatten(), nn.Linear(64, 10)]
    return Network(nn.Sequential(*layers), {}, (3, 7, 7))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("density", "counts"),
    [(0.1, [245, 528, 998, 640]), (0.3, [432, 2133, 4029, 640])],
)
def test_erdos_renyi_kernel_has_the_specifications_counts(density: float, counts: list[int]) -> None:
    found = start_counts(four_layers(), Target("sparsity", 1 - density), "erk")
    assert list(found.values()) == counts


def test_the_proportions_of_a_kernel() -> None:
    assert list(proportions(four_layers(), "erk").values()) == [25, 54, 102, 74]
    assert list(proportions(four_layers(), "er").values()) == [9 * 19, 9 * 48, 9 * 96, 74]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("sparsity", [0.05, 0.5, 0.9, 0.987654321])
def test_a_sparsity_is_met_to_the_weight(model: str, start: Start, sparsity: float) -> None:
    made = network(model)
    most = sizes(made)
    total = sum(most.values())
    for least in (1, 20):
        counts = start_counts(made, Target("sparsity", sparsity), start, least)
        assert sum(counts.values()) == total - math.floor(sparsity * total + 0.5)
        assert all(min(least, most[name]) <= number <= most[name] for name, number in counts.items())


@pytest.mark.parametrize("start", STARTS)
def test_uniform_is_one_density_and_layers_between_their_limits_keep_their_proportions(start: Start) -> None:
    made = network()
    counts, most, ratios = start_counts(made, Target("sparsity", 0.8), start), sizes(made), proportions(made, start)
    free = {name: counts[name] / ratios[name] for name in counts if counts[name] < most[name]}
    assert len(free) >= 2 and max(free.values()) - min(free.values()) < 1 / min(ratios.values())


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("least", [0, 5])
def test_a_speed_up_is_the_most_weights_that_fit(start: Start, least: int) -> None:
    made = network()
    price, most = macs_per_weight(made), sizes(made)
    budget = sum(price[name] * size for name, size in most.items()) / 6
    counts = start_counts(made, Target("speed_up", 6.0), start, least)
    spent = sum(price[name] * number for name, number in counts.items())
    assert budget - 2 * max(price.values()) < spent <= budget


def test_the_first_layer_may_stay_dense_within_the_same_total() -> None:
    made = network()
    first, target = next(iter(sizes(made))), Target("sparsity", 0.95)
    plain, kept = (start_counts(made, target, "erk", keep_first=keep) for keep in (False, True))
    assert plain[first] < kept[first] == sizes(made)[first] and sum(plain.values()) == sum(kept.values())


@pytest.mark.parametrize(
    ("ratios", "total", "free", "expected"),
    [
        ((30, 60, 10), 10, (90, 90, 90), (3, 6, 1)),
        ((31, 58, 11), 10, (90, 90, 90), (3, 6, 1)),
        ((30, 60, 10), 10, (70, 2, 90), (6, 2, 2)),
        ((1, 1, 1), 4, (9, 9, 9), (2, 1, 1)),  # a tie goes to the earlier layer
        ((1, 1, 1), 6, (2, 2, 2), (2, 2, 2)),
        ((5, 1, 1), 0, (2, 2, 2), (0, 0, 0)),
    ],
)
def test_shares_in_proportion(
    ratios: tuple[int, ...], total: int, free: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    names = "abc"
    found = allocate(
        dict(zip(names, map(float, ratios), strict=True)),
        total,
        dict.fromkeys(names, 0),
        dict(zip(names, free, strict=True)),
    )
    assert tuple(found.values()) == expected


def test_a_total_beyond_the_limits_is_no_allocation() -> None:
    with pytest.raises(ValueError, match="7 is not between 0 and 6"):
        allocate({"a": 1.0, "b": 1.0}, 7, {"a": 0, "b": 0}, {"a": 3, "b": 3})


@pytest.mark.parametrize(
    ("target", "least", "keep_first", "message"),
    [
        (Target("sparsity", 0.999), 0, False, r"sparsity=0.999 leaves no weight in conv, and .*least=1"),
        (Target("sparsity", 0.9999), 10, False, r"leaves \d+ weights: method.least=10 needs more"),
        (Target("sparsity", 0.9999), 0, True, r"method.keep_first=true needs more"),
        (Target("speed_up", 1e5), 1, False, r"speed_up=100000 leaves \d weights: method.least=1 needs"),
    ],
)
def test_what_a_layer_needs_is_told(target: Target, least: int, keep_first: bool, message: str) -> None:
    with pytest.raises(UserError, match=message):
        start_counts(network(), target, "uniform", least, keep_first)


def with_one_left_alone() -> Network:
    made = network()
    setattr(made.module.layer2[0].conv2, LEFT_ALONE, "its weights are shared")
    return made


@pytest.mark.parametrize("start", STARTS)
def test_weights_that_no_mask_reaches_count_for_the_target(start: Start) -> None:
    made = with_one_left_alone()
    fixed = made.module.layer2[0].conv2.weight.numel()
    total = sum(sizes(network()).values())
    counts = start_counts(made, Target("sparsity", 0.8), start, 1)
    assert sum(counts.values()) + fixed == total - math.floor(0.8 * total + 0.5)
    counts = start_counts(made, Target("speed_up", 3), start, 1)
    for name, layer in masked_layers(made).items():
        layer.set_mask(torch.arange(layer.mask.numel()).view_as(layer.mask) < counts[name])
    dense = network()
    assert count(made.module, (3, 8, 8)).macs == pytest.approx(count(dense.module, (3, 8, 8)).macs / 3, rel=1e-3)


def test_gradual_pruning_ends_at_the_target_of_the_whole_network() -> None:
    made = with_one_left_alone()
    fixed = made.module.layer2[0].conv2.weight.numel()
    rule = Gradual().hook(Target("sparsity", 0.8), made, 0).rule
    layers = {
        name: Layer(torch.randn(layer.weight.shape), layer.mask, ~layer.mask, 0)
        for name, layer in masked_layers(made).items()
    }
    kept = sum(int(move.mask.sum()) for move in rule.moves(layers, 1.0, 0.0).values())
    total = sum(sizes(network()).values())
    assert kept + fixed == total - math.floor(0.8 * total + 0.5)


def test_one_sparsity_for_all_layers_is_checked_as_it_is_pruned() -> None:
    """Without the layer left alone, the others would keep a weight each at that sparsity."""
    layers = [nn.Conv2d(1, 4, 5), nn.Conv2d(4, 10, 1), nn.Flatten(), nn.Linear(10, 1)]
    setattr(layers[1], LEFT_ALONE, "its weights are shared")
    made = Network(nn.Sequential(*layers), {}, (1, 5, 5))  # type: ignore[arg-type]
    target = Target("sparsity", 0.7)  # of 150 weights 45 stay: 5 where masks reach
    assert layer_counts(made, 0.7) == {"0": 30, "3": 3}
    with pytest.raises(
        UserError, match=r"method\.scope=layer cannot reach sparsity=0\.7: 3 would keep 0 of 10 weights"
    ):
        require_kept(made, target, "layer", 0)
