"""Plans and edits of the methods that cut channels."""

from __future__ import annotations

import copy

import pytest
import torch

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Outcome
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target, Timing
from paredown.cost import count
from paredown.graph.channels import channels
from paredown.methods.filters import pruning
from paredown.methods.filters.autoslim import AutoSlim, error, greedy
from paredown.methods.filters.group_norm import GroupNorm
from paredown.methods.filters.l1_filters import L1Filters, widths_at
from paredown.methods.filters.pruning import prune
from paredown.methods.filters.slimming import Slimming, set_scale
from paredown.runtime.width_clock import WidthClock
from paredown.surgery.importance import L1, Scale
from paredown.surgery.prefixes import maskable_groups
from paredown.surgery.width_budget import WidthCost, scoped
from paredown.training.hooks.channel_penalties import GroupSparsity
from paredown.training.hooks.sandwich import Sandwich

CONTEXT = Context(None, torch.device("cpu"), 0)
RECIPE = Recipe(epochs=4)


def resnet(**more: object) -> Network:
    torch.manual_seed(0)
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, **more}
    return blueprint.create(architecture, (3, 32, 32))


@pytest.fixture(autouse=True)
def no_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "accuracy", lambda network, context: {"top1": 0.0, "top5": 0.0})


@pytest.mark.parametrize(("quantity", "value"), [("speed_up", 2.0), ("sparsity", 0.6), ("keep_params", 0.3)])
def test_as_few_channels_go_as_reach_the_goal(quantity: str, value: float) -> None:
    network = resnet(shortcut="A")
    dense = count(network.module, network.input_shape)
    notes = prune(network, CONTEXT, L1(), Goal(quantity, value))  # type: ignore[arg-type]
    cost = count(network.module, network.input_shape)
    reached = {
        "speed_up": dense.macs / cost.macs,
        "sparsity": 1 - cost.weights / dense.weights,
        "keep_params": -cost.params / dense.params,
    }[quantity]
    wanted = -value if quantity == "keep_params" else value
    assert wanted <= reached < wanted * (1.05 if wanted > 0 else 0.95)
    assert sum(map(len, notes["kept"].values())) < sum(notes["of"].values())


def test_the_smallest_filters_go() -> None:
    network = resnet()
    weight = network.module.layer1[0].conv1.weight
    weight.data[[3, 7]] *= 1e-3
    notes = prune(network, CONTEXT, L1(), widths={"layer1.0.conv1": 14}, scope=("layer1.0.conv1",))
    assert notes["kept"] == {"layer1.0.conv1": [i for i in range(16) if i not in (3, 7)]}


def test_a_latency_is_measured_as_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock decides, under the conditions of the run."""
    network = resnet()
    groups = scoped(network)
    cost = WidthCost(network, groups)
    seen = set()

    def speed_up(self: WidthClock, widths: dict[str, int]) -> float:
        seen.add((self.timing.batch, self.timing.threads))
        return cost.dense / cost.total(widths)

    monkeypatch.setattr(WidthClock, "speed_up", speed_up)
    prune(network, CONTEXT, L1(), Goal("latency_speed_up", 3.0), timing={"batch": 7, "threads": 1})
    assert 3.0 <= cost.dense / count(network.module, network.input_shape).macs < 3.15 and seen == {(7, 1)}


@pytest.mark.parametrize(("factor", "enough"), [(1.0, True), (0.95, True), (0.85, False)])
def test_at_the_fewest_channels_a_latency_is_met_within_its_tolerance(
    factor: float, enough: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a measurement after the training may differ from that of the plan."""
    network = resnet()
    goal, timing = Goal("latency_speed_up", 3.0), {"batch": 7, "threads": 1, "device": "any"}
    monkeypatch.setattr(
        WidthClock, "speed_up", lambda clock, widths: 3.0 * factor if set(widths.values()) == {4} else 1.0
    )
    if enough:
        notes = prune(network, CONTEXT, L1(), goal, least=4, timing=timing)
        assert {len(kept) for kept in notes["kept"].values()} == {4}
    else:
        with pytest.raises(UserError, match="out of reach with 4 channels"):
            prune(network, CONTEXT, L1(), goal, least=4, timing=timing)


def test_widths_found_by_a_clock_belong_to_its_threads_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "require_latency", lambda *arguments: None)
    monkeypatch.setattr(pruning, "device_name", lambda device: f"name of {device}")
    network, threads = resnet(), torch.get_num_threads()
    for timing, found in ((Timing(7, 3), 3), (Timing(7, None), threads)):
        arguments = L1Filters().arguments(Target("latency_speed_up", 2.0, timing), network)
        assert arguments["timing"] == {"batch": 7, "threads": found, "device": "name of cpu"}


def test_without_test_images_there_are_no_accuracies_around_the_cut() -> None:
    notes = {"kept": {"a": [0]}, "of": {"a": 2}, "base": {}, "pruned": {}}
    outcome = Outcome(Edit("prune", prune, {}), [], notes, resnet, dict)
    assert L1Filters().metrics([outcome]) == {"channels/kept": 1.0, "channels/full": 2.0}


def test_rates_round_as_the_authors() -> None:
    """ResNet-56-A of Li et al. keeps 14, 28 and 57 filters of a block's first convolution."""
    groups = scoped(resnet(), "internal")
    rates = {"layer1": 0.1, "layer2": 0.1, "layer3.0": 0.1}
    assert widths_at(rates, groups) == {"layer1.0.conv1": 14, "layer2.0.conv1": 28, "layer3.0.conv1": 57}
    assert widths_at({"layer1": 0.1, "layer1.0.conv1": 0.5}, groups)["layer1.0.conv1"] == 8
    for wrong, words in (({"layer9": 0.1}, "no channels to cut begin there"), ({"layer1": 0.0}, "removes no filter")):
        with pytest.raises(UserError, match=words):
            widths_at(wrong, groups)


def test_rates_of_a_module_cut_no_residual_trunk_that_begins_in_it() -> None:
    groups = scoped(resnet(), "all")
    trunks = {group.name: group.size for group in groups if group.summed}
    assert "conv" in trunks and any(name.startswith("layer2.") for name in trunks)
    with pytest.raises(UserError, match=r"method\.rates\.layer2: the channels of layer2.* residual trunk"):
        widths_at({"layer2": 0.3}, groups)
    (trunk,) = (name for name in trunks if name.startswith("layer2."))
    widths = widths_at({"layer2": 0.25, trunk: 0.5}, groups)
    assert (widths[trunk], widths["layer2.0.conv1"]) == (trunks[trunk] // 2, 24)
    assert widths_at({"layer2": 0.25, trunk: 0}, groups)[trunk] == trunks[trunk]


class Gated(torch.nn.Module):
    """One convolution whose two halves are multiplied by what two others write."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.one, self.two = (torch.nn.Conv2d(3, width, 3) for width in (8, 4, 4))
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((self.wide(x) * torch.cat([self.one(x), self.two(x)], 1)).mean((2, 3)))


def test_rates_reach_every_group_of_a_layer_or_one_of_them() -> None:
    groups = channels(Gated(), (3, 8, 8)).groups
    assert widths_at({"wide": 0.5}, groups) == {"wide": 2, "wide@2": 2}
    rates = compose(["method=l1_filters", "method.rates={wide@2: 0.25}"])["method"]["rates"]
    assert widths_at(rates, groups) == {"wide": 4, "wide@2": 3}


def test_plans() -> None:
    target, network = Target("speed_up", 2.0), resnet()

    def names(method: object, of: Network = network) -> list[str]:
        return [stage.name for stage in method.plan(target, of, RECIPE)]  # type: ignore[attr-defined]

    brought = resnet()
    brought.pretrained = True
    assert names(L1Filters()) == ["train", "prune", "finetune"]
    assert names(L1Filters(finetune=RecipeOverrides(epochs=0)), brought) == ["prune"]
    assert names(Slimming()) == ["start", "sparse", "prune", "finetune"]
    assert names(Slimming(), brought) == ["sparse", "prune", "finetune"]
    assert names(GroupNorm()) == ["train", "sparse", "prune", "finetune"]
    assert names(GroupNorm(decay=0)) == ["train", "prune", "finetune"]
    assert names(AutoSlim()) == ["supernet", "slim", "train"]
    assert isinstance(Slimming(reduce="sum").plan(target, network, RECIPE)[2].arguments["importance"], Scale)  # type: ignore[union-attr]


def test_hyperparameters_reach_their_stages() -> None:
    target, scope = Target("speed_up", 1.05), ("layer1.0.conv1", "conv")
    tuned = RecipeOverrides(epochs=2, learning_rate=0.005)
    plan = L1Filters(scope=scope, least=3, round_to=4, normalise=False, finetune=tuned).plan(target, resnet(), RECIPE)
    edit = next(stage for stage in plan if isinstance(stage, Edit))
    assert isinstance(last := plan[-1], Fit) and last.recipe == RECIPE.changed(tuned) != RECIPE
    expected = {"importance": L1(normalise=False), "scope": ("layer1.0.conv1", "conv"), "least": 3, "round_to": 4}
    assert {name: edit.arguments[name] for name in expected} == expected
    sparse = next(s for s in Slimming(decay=0.3).plan(Target("speed_up", 2.0), resnet(), RECIPE) if isinstance(s, Fit))
    assert sparse.hooks[0].decay == 0.3  # type: ignore[attr-defined]
    slim = Slimming(reduce="sum", scope="internal").plan(target, resnet(), RECIPE)
    assert [stage.arguments["importance"] for stage in slim if stage.name == "prune"] == [Scale("sum")]  # type: ignore[union-attr]
    norms = GroupNorm(decay=0.1, scope="internal", sparse=tuned).plan(target, resnet(), RECIPE)
    assert norms[1] == Fit("sparse", RECIPE.changed(tuned), (GroupSparsity(0.1, "internal"),))
    search = {"least": 0.3, "steps": 4, "scope": "internal"}
    supernet, slimmed, train = AutoSlim(**search, samples=5, images=30, supernet=tuned).plan(target, resnet(), RECIPE)
    assert supernet == Fit("supernet", RECIPE.changed(tuned), (Sandwich(samples=5, **search),))
    assert slimmed.arguments == {"goal": Goal.of(target), "images": 30, **search}  # type: ignore[union-attr]
    assert train == Fit("train", RECIPE)


@pytest.mark.parametrize(
    ("method", "target", "words"),
    [
        (L1Filters(), None, "channels from one of sparsity=, speed_up=, latency_speed_up= and method.keep_params="),
        (AutoSlim(), None, "channels from one of sparsity=, speed_up= and method.keep_params="),
        (L1Filters(keep_params=0.5), Target("speed_up", 2.0), "speed_up=2 and method.keep_params=0.5"),
        (L1Filters(), Target("speed_up", 1e5), "out of reach: one channel a layer"),
        (L1Filters(round_to=32), Target("speed_up", 2.0), "wider than conv, which has 16 channels"),
        (L1Filters(rates={"layer1": 0.5}), Target("speed_up", 2.0), "leave out speed_up=2"),
        (L1Filters(scope=("nowhere",)), Target("speed_up", 2.0), "no group of channels begins at 'nowhere'"),
        (AutoSlim(least=0.9), Target("speed_up", 2.0), "out of reach with method.least=0.9"),
    ],
)
def test_refusals(method: object, target: Target | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        method.plan(target, resnet(), RECIPE)  # type: ignore[attr-defined]


def test_networks_without_batch_norms_or_channels() -> None:
    three_fc = blueprint.create({"_target_": "paredown.models.cifar.counterparts.three_fc", "hidden": 20}, (3, 8, 8))
    three_fc.module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 5), torch.nn.Linear(5, 3))
    with pytest.raises(UserError, match="no batch norm ranks channels of Sequential"):
        Slimming().plan(Target("speed_up", 2.0), three_fc, RECIPE)
    three_fc.module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))
    with pytest.raises(UserError, match="Sequential has no channels to cut"):
        L1Filters().plan(Target("speed_up", 2.0), three_fc, RECIPE)


def test_channels_without_a_batch_norm_stay_in_slimming() -> None:
    """Squeeze-and-excitation's hidden channels have none."""
    network = blueprint.create(
        {"_target_": "paredown.models.torchvision.efficientnet_b0", "num_classes": 10}, (3, 32, 32)
    )
    groups = scoped(network)
    ranked = Scale().scorable(network, groups)
    assert {g.name for g in groups} - {g.name for g in ranked} == {g.name for g in groups if g.name.endswith("fc1")}
    assert [stage.name for stage in Slimming().plan(Target("speed_up", 1.5), network, RECIPE)][-1] == "finetune"


def test_scales_begin_as_asked() -> None:
    network = resnet()
    set_scale(network, CONTEXT, 0.25)
    assert torch.all(network.module.layer1[0].bn1.weight == 0.25)


def test_greedy_takes_from_where_the_score_stays_lowest() -> None:
    groups = maskable_groups(resnet())
    step = {g.name: g.size // 4 for g in groups}
    wanted = groups[2].name
    widths = greedy(
        groups, step, 0.25, lambda w: sum(w.values()) <= sum(g.size for g in groups) - 2 * step[wanted],
        lambda w: (-float(groups[2].size - w[wanted]), 0.0),
    )  # fmt: skip
    assert {name for name, width in widths.items() if width < {g.name: g.size for g in groups}[name]} == {wanted}
    with pytest.raises(UserError, match="cannot reach the target"):
        greedy(groups, step, 0.25, lambda _: False, lambda _: (0.0, 0.0))


def test_an_error_is_counted_and_changes_nothing() -> None:
    network = resnet()
    groups = maskable_groups(network)
    images, labels = torch.randn(8, 3, 32, 32), torch.zeros(8, dtype=torch.int64)
    before = {name: tensor.clone() for name, tensor in network.module.state_dict().items()}
    whole = {g.name: g.size for g in groups}
    wrong, loss = error(network.module, groups, whole, (images, labels))
    narrow = error(network.module, groups, dict.fromkeys(whole, 2), (images, labels))
    logits = copy.deepcopy(network.module).train()(images)  # the batch's statistics
    assert wrong == float((logits.argmax(1) != 0).float().mean())
    assert loss == pytest.approx(float(torch.nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    assert narrow != (wrong, loss) and network.module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.module.state_dict().items())
