"""The cost of designs against the counters, and the energy or threshold for a target against brute force."""

from __future__ import annotations

import itertools
from functools import partial

import pytest
import torch

from paredown.core import blueprint
from paredown.core.deploy import deploy, prove_equal
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Target
from paredown.cost import count
from paredown.layers.factorised.forms import Branch, full_rank, kernel_shape
from paredown.surgery.factorise import convolutions, decompose, singular_values
from paredown.surgery.rank_budget import DesignCost, least, limited, ranks_at, reaching, require_reach, uniform

DESIGNS = {
    "conv": [Branch("in_group", 3, 2)],
    "layer1.0.conv1": [Branch("horizontal_first", 1, 5)],
    "layer1.0.conv2": [Branch("vertical_first", 1, 4)],
    "layer2.0.conv1": [Branch("out_group", 4, 2), Branch("in_group", 2, 3)],
    "layer2.0.shortcut.conv": [Branch("out_group", 2, 1)],
    "fc": [Branch("in_group", 8, 2)],
}


def resnet8() -> Network:
    torch.manual_seed(0)
    return blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 16, 16))


@pytest.mark.parametrize("quantity", ["macs", "weights"])
def test_the_cost_of_designs_is_what_the_counters_find(quantity) -> None:
    network = resnet8()
    cost = DesignCost(network, quantity)
    assert cost.total({}) == cost.dense == getattr(count(network.module, (3, 16, 16)), quantity)
    expected, ratio = cost.total(DESIGNS), cost.ratio(DESIGNS)
    decompose(network, DESIGNS)
    found = getattr(count(network.module, (3, 16, 16)), quantity)
    assert found == expected != cost.dense and ratio == cost.dense / found
    assert cost.total(DESIGNS) == expected  # of the layers as they were
    assert prove_equal(network.module.double(), deploy(network.module), (3, 16, 16)) < 1e-9


@pytest.mark.parametrize("factorisation", ["in_group", "vertical_first"])
@pytest.mark.parametrize("quantity", ["macs", "weights"])
def test_so_is_the_cost_of_the_ranks_of_factorised_layers(factorisation, quantity) -> None:
    network = resnet8()
    cost = DesignCost(network, quantity)
    highest = {n: full_rank(kernel_shape(c), factorisation) for n, c in convolutions(network.module).items()}
    ranks = {name: 1 + index % full for index, (name, full) in enumerate(highest.items())}
    for name, rank in ranks.items():
        blueprint.rewrite(network, name, "low_rank", factorisation=factorisation, rank=rank)
    assert cost.total(uniform(ranks, factorisation)) == getattr(count(network.module, (3, 16, 16)), quantity)


def test_designs_that_cost_no_less_than_the_layer_are_left_out() -> None:
    network = resnet8()
    cost, names = DesignCost(network), list(convolutions(network.module))
    at_full_rank = {n: full_rank(kernel_shape(c), "vertical_first") for n, c in convolutions(network.module).items()}
    assert cost.cheaper(uniform(at_full_rank, "vertical_first")) == {}
    rank_1 = uniform(dict.fromkeys(names, 1), "vertical_first")
    assert cost.cheaper(rank_1) == rank_1
    price, dense = cost.per_rank("layer1.0.conv1", "vertical_first"), cost.layer("layer1.0.conv1")
    assert price == 16 * 16 * 16 * 6 and dense % price == 0  # at 24 ranks exactly the same
    for rank, kept in ((23, True), (24, False)):
        assert bool(cost.cheaper(uniform({"layer1.0.conv1": rank}, "vertical_first"))) is kept


def spectra(network: Network, factorisation) -> dict[str, torch.Tensor]:
    return {name: singular_values(network, name, factorisation) for name in convolutions(network.module)}


@pytest.mark.parametrize("factorisation", ["in_group", "vertical_first"])
@pytest.mark.parametrize("target", [Target("speed_up", 1.5), Target("speed_up", 4), Target("sparsity", 0.7)])
@pytest.mark.parametrize("criterion", ["energy", "threshold"])
def test_what_reaches_a_target_is_the_least_that_does(factorisation, target, criterion) -> None:
    network = resnet8()
    values, designs = spectra(network, factorisation), partial(uniform, factorisation=factorisation)
    cost, limit = limited(network, target)

    def total(value: float) -> int:
        return cost.total(designs(ranks_at(values, criterion, value)))

    found = reaching(target, network, values, designs, criterion)
    assert total(found) <= limit
    everywhere = torch.linspace(0, 0.999 if criterion == "energy" else 3, 4000).tolist()
    cheap = [value for value in everywhere if total(value) <= limit]
    dear = [value for value in everywhere if total(value) > limit]
    # at most one rank of one layer apart from what a fine grid finds
    assert min(cheap) >= max(dear) and max(dear) < found
    assert total(found) >= total(min(cheap))


@pytest.mark.parametrize("criterion", ["energy", "threshold"])
def test_the_hardest_target_in_reach_is_rank_1_everywhere(criterion) -> None:
    network = resnet8()
    values, designs = spectra(network, "in_group"), partial(uniform, factorisation="in_group")
    most = DesignCost(network).ratio(designs(dict.fromkeys(values, 1)))
    found = reaching(Target("speed_up", most * 0.9999), network, values, designs, criterion)
    assert set(ranks_at(values, criterion, found).values()) == {1}
    with pytest.raises(UserError, match="speed_up=1000 is out of reach"):
        reaching(Target("speed_up", 1000), network, values, designs, criterion)


def test_a_target_below_the_least_designs_is_refused() -> None:
    network, rank_1 = resnet8(), {"layer3.0.conv2": [Branch("horizontal_first", 1, 1)]}
    for target in (Target("speed_up", 2), Target("sparsity", 0.9)):
        with pytest.raises(UserError, match=rf"{target} is out of reach: rank 1 everywhere gives {target.quantity}="):
            require_reach(network, target, rank_1)
    require_reach(network, Target("sparsity", 0.2), rank_1)
    cost, limit = limited(network, Target("sparsity", 0.2))
    assert limit == 0.8 * cost.dense >= cost.total(rank_1)


def test_ranks_at_a_threshold_count_what_exceeds_it() -> None:
    values = {"a": torch.tensor([3.0, 2.0, 1.0]), "b": torch.tensor([0.5, 0.1])}
    assert ranks_at(values, "threshold", 1.0) == {"a": 2, "b": 1}
    assert ranks_at(values, "energy", 1 / 14) == {"a": 2, "b": 1}


def test_ties_between_layers_still_reach_the_limit() -> None:
    values = {name: torch.ones(4) for name in "abc"}
    for limit in (48, 36, 24, 12):
        steps = [torch.tensor([0.75, 0.5, 0.25, 0.0])] * 3  # the energies at which a rank changes

        def enough(energy: float, limit: int = limit) -> bool:
            return 4 * sum(ranks_at(values, "energy", energy).values()) <= limit

        found = least(steps, enough, 1.0)
        reachable = [4 * sum(ranks_at(values, "energy", e).values()) for e in (0, 0.26, 0.51, 0.76)]
        total = 4 * sum(ranks_at(values, "energy", found).values())
        assert total == max(value for value in reachable if value <= limit)
    assert all(a > b for a, b in itertools.pairwise(reachable))


def test_the_least_value_is_between_two_steps() -> None:
    steps = [torch.tensor([4.0, 1.0]), torch.tensor([2.0, 1.0])]
    tried: list[float] = []

    def enough(value: float, above: float) -> bool:
        tried.append(value)
        return value > above

    assert [least(steps, partial(enough, above=above)) for above in (-1, 0, 1.5, 3, 8)] == [0.0, 1.5, 3.0, 6.0, None]
    assert set(tried) <= {0.0, 1.5, 3.0, 6.0}
    assert least(steps, partial(enough, above=4), end=5.0) == 4.5
