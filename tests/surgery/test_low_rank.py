"""Which layers are factorised, what ranks cost, and the energy that reaches a target, against brute force."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from paredown import blueprint
from paredown.cost import count
from paredown.errors import UserError
from paredown.layers.low_rank import decompose
from paredown.plan import Network, Target
from paredown.surgery.low_rank import (
    RankCost,
    convolutions,
    dense_twin,
    energy_within,
    low_rank_layers,
    ranks_at,
    target_cost,
)


def resnet8() -> Network:
    torch.manual_seed(0)
    return blueprint.create({"_target_": "paredown.models.resnet.cifar_resnet", "depth": 8}, (3, 16, 16))


def test_all_but_grouped_ones_or_trps_choice() -> None:
    network = resnet8()
    everything = convolutions(network.module)
    assert len(everything) == 9 and "conv" in everything and "layer2.0.shortcut.conv" in everything
    assert list(convolutions(network.module, "trp")) == [
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer2.0.conv2",
        "layer3.0.conv2",
    ]
    with pytest.raises(UserError, match=r"Sequential has no convolution to factorise \(method\.select=all\)"):
        convolutions(nn.Sequential(nn.Linear(2, 2), nn.Conv2d(4, 4, 3, groups=4)))
    mobile = blueprint.create({"_target_": "paredown.models.mobilenet.mobilenet_v2_cifar"}, (3, 32, 32))
    assert all(conv.groups == 1 for conv in convolutions(mobile.module).values())


@pytest.mark.parametrize("form", ["channel", "spatial"])
@pytest.mark.parametrize("quantity", ["macs", "weights"])
def test_the_price_of_ranks_is_what_the_counters_find(form, quantity) -> None:
    network = resnet8()
    names = list(convolutions(network.module))
    cost = RankCost.of(network, form, names, quantity)
    assert cost.dense == getattr(count(network.module, network.input_shape), quantity)
    ranks = {name: 1 + index % highest for index, (name, highest) in enumerate(cost.highest.items())}
    for name, rank in ranks.items():
        blueprint.rewrite(network, name, "low_rank", form=form, rank=rank)
    found = getattr(count(network.module, network.input_shape), quantity)
    assert cost.total(ranks) == found and cost.ratio(ranks) == cost.dense / found


def test_with_the_fallback_no_layer_costs_more_than_before() -> None:
    network = resnet8()
    names = list(convolutions(network.module))
    cost = RankCost.of(network, "spatial", names, fallback=True)
    assert cost.total(cost.highest) == cost.dense
    assert cost.total(dict.fromkeys(names, 1)) == RankCost.of(network, "spatial", names).total(dict.fromkeys(names, 1))


def spectra(network: Network, form: str) -> dict[str, torch.Tensor]:
    return {name: decompose(conv, form).s.detach() for name, conv in convolutions(network.module).items()}


@pytest.mark.parametrize("form", ["channel", "spatial"])
@pytest.mark.parametrize("target", [Target("speed_up", 1.5), Target("speed_up", 4), Target("sparsity", 0.7)])
def test_the_energy_for_a_target_is_the_least_that_reaches_it(form, target) -> None:
    network = resnet8()
    values = spectra(network, form)
    cost, limit = target_cost(network, form, list(values), target)
    energy = energy_within(values, cost, limit)
    assert cost.total(ranks_at(values, energy)) <= limit
    everywhere = torch.linspace(0, 0.999, 4000).tolist()
    cheaper = [e for e in everywhere if cost.total(ranks_at(values, e)) <= limit]
    dearer = [e for e in everywhere if cost.total(ranks_at(values, e)) > limit]
    # at most one rank of one layer apart from what a fine grid finds
    assert min(cheaper) >= max(dearer) and max(dearer) < energy
    assert cost.total(ranks_at(values, energy)) >= cost.total(ranks_at(values, min(cheaper)))


def test_the_hardest_target_in_reach_is_rank_1_everywhere() -> None:
    network = resnet8()
    values = spectra(network, "channel")
    least = RankCost.of(network, "channel", list(values)).ratio(dict.fromkeys(values, 1))
    cost, limit = target_cost(network, "channel", list(values), Target("speed_up", least * 0.9999))
    assert set(ranks_at(values, energy_within(values, cost, limit)).values()) == {1}
    with pytest.raises(UserError, match=r"speed_up=1000 is out of reach in channel form: rank 1 .* speed_up=\d+"):
        target_cost(network, "channel", list(values), Target("speed_up", 1000))
    with pytest.raises(UserError, match=r"sparsity=0\.999 is out of reach in spatial form: rank 1 .* sparsity=0\.9"):
        target_cost(network, "spatial", list(values), Target("sparsity", 0.999))


def test_the_dense_twin_draws_nothing_from_the_generator() -> None:
    network = resnet8()
    names = list(convolutions(network.module))
    blueprint.rewrite(network, names[0], "low_rank", form="channel", rank=2)
    state = torch.get_rng_state()
    twin = dense_twin(network)
    assert torch.equal(torch.get_rng_state(), state)
    assert (
        not twin.blueprint and not low_rank_layers(twin.module) and list(low_rank_layers(network.module)) == names[:1]
    )
    assert all(isinstance(twin.module.get_submodule(name), nn.Conv2d) for name in names)


def test_ties_between_layers_still_reach_the_target() -> None:
    values = {name: torch.ones(4) for name in "abc"}
    cost = RankCost(
        fixed=0, before=dict.fromkeys("abc", 10), per_rank=dict.fromkeys("abc", 4), highest=dict.fromkeys("abc", 4)
    )
    for limit in (48, 36, 24, 12):
        energy = energy_within(values, cost, limit)
        reachable = [4 * sum(ranks_at(values, e).values()) for e in (0, 0.26, 0.51, 0.76)]
        assert cost.total(ranks_at(values, energy)) == max(total for total in reachable if total <= limit)
    assert all(a > b for a, b in itertools.pairwise(reachable))
