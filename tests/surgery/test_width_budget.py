"""What widths cost, against the counters on really cut networks; and which channels a target leaves."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Goal
from paredown.cost import count
from paredown.graph.channels import Group, Member
from paredown.surgery.narrowing import cut
from paredown.surgery.width_budget import (
    WidthCost,
    at_one_rate,
    limited,
    lowest,
    require_reach,
    rounded,
    scoped,
    steps,
    to_remove,
    widths_for,
)


def create(model: str, **arguments: object) -> Network:
    torch.manual_seed(0)
    return blueprint.create({"_target_": f"paredown.models.{model}", **arguments}, (3, 32, 32))


def resnet(**arguments: object) -> Network:
    return create("cifar.resnet.cifar_resnet", **({"depth": 20, "shortcut": "A"} | arguments))


def mobilenet() -> Network:
    return create("cifar.mobilenet.mobilenet_v2_cifar")


@pytest.mark.parametrize("model", ["resnet", "mobilenet", "d_conv", "shufflenet"])
def test_the_cost_is_that_of_the_cut_network(model: str) -> None:
    network = {
        "resnet": resnet,
        "mobilenet": mobilenet,
        "d_conv": lambda: create("cifar.counterparts.counterpart", family="d", connection="conv", bias=True),
        "shufflenet": lambda: create("torchvision.shufflenet_v2", stem="cifar", width=0.5),
    }[model]()
    groups = scoped(network)
    generator = torch.Generator().manual_seed(1)
    removed = {g.name: list(range(int(torch.randint(0, g.size, (), generator=generator)))) for g in groups}
    widths = {g.name: g.size - len(removed[g.name]) for g in groups}
    quantities = ("macs", "weights", "params")
    said = {quantity: WidthCost(network, groups, quantity).total(widths) for quantity in quantities}
    cut(network, groups, removed)
    cost = count(network.module, network.input_shape)
    assert said == {quantity: getattr(cost, quantity) for quantity in quantities}


@pytest.mark.parametrize(
    ("widths", "macs", "params"), [((13, 26, 52), 82_907_656, 563_911), ((10, 20, 40), 49_121_680, 334_420)]
)
def test_closed_forms_of_centripetal_sgds_resnet_56(widths: tuple[int, ...], macs: int, params: int) -> None:
    network = resnet(depth=56)
    groups = scoped(network)
    whole = dict(zip((16, 32, 64), widths, strict=True))
    trunk = {"conv": widths[0], "layer2.0.conv2": widths[1] - widths[0], "layer3.0.conv2": widths[2] - widths[1]}
    kept = {g.name: trunk.get(g.name) or whole[g.size] for g in groups}
    assert WidthCost(network, groups).total(kept) == macs
    assert WidthCost(network, groups, "params").total(kept) == params


@pytest.mark.parametrize(
    ("scope", "keep", "params", "macs"),
    [("expansions", 0.438, 1_003_456, 32_750_112)],
)
def test_closed_forms_of_narrow_mobilenets(scope: str, keep: float, params: int, macs: int) -> None:
    """The largest hidden widths floor(r h) of all blocks within a share of the parameters; the stem's depthwise layer
    counts as an expansion there, and stays here."""
    network = mobilenet()
    groups = scoped(network, "all")
    hidden = [g for g in groups if any("depthwise" in m.layer for m in g.members)]
    cost, limit = limited(network, hidden, Goal("keep_params", keep))
    rates = sorted({i / g.size for g in hidden for i in range(1, g.size + 1)})
    within = [r for r in rates if cost.total({g.name: max(1, int(r * g.size + 1e-9)) for g in hidden}) <= limit]
    widths = {g.name: max(1, int(within[-1] * g.size + 1e-9)) for g in hidden}
    assert cost.total(widths) == params and WidthCost(network, hidden).total(widths) == macs


def group(name: str, size: int, each: int = 1) -> Group:
    table = torch.arange(size * each).reshape(size, each)
    return Group(name, (Member(name, "out", table), Member("next", "in", table)), summed=False)


def test_the_lowest_go_in_one_order_with_ties_by_group_and_index() -> None:
    groups = [group("a", 3), group("b", 4)]
    scores = {"a": torch.tensor([2.0, 1.0, 1.0]), "b": torch.tensor([1.0, 0.5, 3.0, 1.0])}
    orders = [lowest(scores, groups, lambda w, n=n: sum(w.values()) <= 7 - n) for n in range(6)]
    assert orders == [
        {"a": [], "b": []},
        {"a": [], "b": [1]},
        {"a": [1], "b": [1]},
        {"a": [1, 2], "b": [1]},
        {"a": [1, 2], "b": [0, 1]},
        {"a": [1, 2], "b": [0, 1, 3]},
    ]
    with pytest.raises(UserError, match="out of reach"):
        lowest(scores, groups, lambda w: sum(w.values()) <= 1)


def test_rounding_keeps_the_highest_and_least_is_kept() -> None:
    groups = [group("a", 16), group("b", 10)]
    scores = {"a": torch.arange(16.0), "b": torch.arange(10.0) - 100}
    for target, least in product((10, 14, 20), (1, 3)):
        removed = lowest(scores, groups, lambda w, t=target: sum(w.values()) <= t, least=least, round_to=4)
        kept = {"a": 16 - len(removed["a"]), "b": 10 - len(removed["b"])}
        assert kept["a"] % 4 == 0 and (kept["b"] % 4 == 0 or kept["b"] == 10) and sum(kept.values()) <= target
        assert removed["a"] == list(range(len(removed["a"])))
    assert rounded(7, 10, 4) == 8 and rounded(9, 10, 4) == 10


def test_steps_count_outputs() -> None:
    assert steps([group("orbits", 29, 16)], 8) == {"orbits": 1}
    assert steps([group("pairs", 29, 2)], 8) == {"pairs": 4}
    with pytest.raises(UserError, match=r"method\.round_to=32 is wider than layer, which has 16 channels"):
        steps([group("layer", 16)], 32)


def test_scores_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UserError, match="the scores of channels at a are not finite"):
        lowest({"a": torch.tensor([1.0, float("nan")])}, [group("a", 2)], lambda _: True)


def test_one_rate_is_exact_and_gives_back() -> None:
    """Whole filters: 1 - 0.9 of 10 is one filter, not none; (10, 20, 39) is the largest ResNet-56 within a half."""
    assert at_one_rate({"a": 10, "b": 20}, lambda w: w["a"] + w["b"] <= 27) == {"a": 9, "b": 18}
    assert at_one_rate({"a": 10, "b": 20}, lambda w: w["a"] + w["b"] <= 26) == {"a": 9, "b": 17}
    assert at_one_rate({"a": 10, "b": 21}, lambda w: w["a"] + w["b"] <= 29) == {"a": 10, "b": 19}
    with pytest.raises(UserError, match="out of reach"):
        at_one_rate({"a": 4}, lambda w: w["a"] <= 0)


@pytest.mark.parametrize("round_to", [1, 4])
@pytest.mark.parametrize("goal", [Goal("speed_up", 3.0), Goal("sparsity", 0.6), Goal("keep_params", 0.5)])
def test_widths_at_one_rate_meet_a_goal(goal: Goal, round_to: int) -> None:
    network = resnet()
    groups = scoped(network)
    widths = widths_for(network, groups, goal, round_to=round_to)
    cost, limit = limited(network, groups, goal)
    assert 0.9 * limit < cost.total(widths) <= limit
    assert all(width % round_to == 0 for width in widths.values())
    sizes = {g.name: g.size for g in groups}
    shares = [widths[name] / sizes[name] for name in sizes]
    assert max(shares) - min(shares) <= 2 * max(round_to / size for size in sizes.values())


def test_refusals_are_one_line() -> None:
    network = resnet()
    groups = scoped(network)
    with pytest.raises(UserError, match=r"speed_up=5000 is out of reach: one channel a layer gives speed_up=\d+"):
        require_reach(network, groups, Goal("speed_up", 5000.0))
    with pytest.raises(UserError, match=r"out of reach: 8 channels a layer gives sparsity=0\.9253"):
        require_reach(network, groups, Goal("sparsity", 0.99), round_to=8)
    with pytest.raises(UserError, match="no group of channels begins at 'layer9'"):
        scoped(network, ("layer9",))
    linear = Network(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)), {}, (3, 2, 2))
    with pytest.raises(UserError, match=r"Sequential has no channels to cut$"):
        scoped(linear)


def test_scopes() -> None:
    network = mobilenet()
    every, inside = scoped(network), scoped(network, "internal")
    assert {g.name for g in inside} < {g.name for g in every} and not any(g.summed for g in inside)
    expansions = scoped(network, "expansions")
    assert len(expansions) == 17 and all(g.name.endswith("expand.conv") for g in expansions)
    assert [g.name for g in scoped(network, ("head.conv",))] == ["head.conv"]


def test_the_lowest_scores_make_room_for_widths() -> None:
    assert to_remove({"a": torch.tensor([3.0, 1.0, 2.0, 1.0])}, {"a": 2}) == {"a": [1, 3]}
