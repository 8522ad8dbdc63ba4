"""ALDS against brute force on two layers, its targets, and what it says and refuses."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import nn

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target
from paredown.cost import count
from paredown.experiment.prepare import prepare
from paredown.methods import families
from paredown.methods.low_rank.alds.method import ALDS, _for_target, decomposable, designs_at, within
from paredown.methods.low_rank.alds.search import LayerErrors, layer_errors, least_ratio, level_within, search
from paredown.methods.low_rank.lr_s2 import LRS2
from paredown.run import walk
from paredown.surgery.factorise import decompose
from paredown.surgery.rank_budget import limited

RECIPE = Recipe(epochs=2)
SMALL = ["dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.1", "recipe.epochs=1", "tracking=off"]
QUIET = ["latency.seconds=0.02", "trainer.progress=false"]


def dense() -> Network:
    torch.manual_seed(0)
    return blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 16, 16))


def test_errors_are_those_of_the_worst_group() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 4, 3)
    found = layer_errors(conv)
    weight = conv.weight.detach().double()
    largest = torch.linalg.matrix_norm(weight.flatten(1), 2)
    assert list(found.errors) == [1, 2, 3, 6] and [len(e) for e in found.errors.values()] == [5] * 4
    for groups in (2, 3):
        for rank in range(4):
            parts = [part.flatten(1) for part in weight.chunk(groups, dim=1)]
            tails = [torch.linalg.svdvals(part)[rank] for part in parts]
            assert found.errors[groups][rank] == pytest.approx(float(max(tails) / largest))
    assert found.errors[1][0] == 1 and all(errors[-1] == 0 for errors in found.errors.values())
    assert found.per_rank(2) == 2 * 4 + 6 * 9 and found.size(2, 1) == 62 and found.size(2, 4) == 216
    assert [found.nearest(k) for k in (3, 4, 5, 9, 1)] == [3, 3, 6, 6, 1]  # of two equally near, the larger
    assert layer_errors(nn.Linear(6, 4)).per_rank(3) == 3 * 4 + 6


def two_layers(seed: int) -> dict[str, LayerErrors]:
    torch.manual_seed(seed)
    return {name: layer_errors(layer) for name, layer in {"a": nn.Conv2d(6, 8, 3), "b": nn.Linear(12, 10)}.items()}


def by_brute_force(layers: dict[str, LayerErrors], budget: float) -> float:
    """The least largest error over all groups and ranks; a layer that would not shrink is dense, of error 0."""
    options = [
        [
            (layer.size(k, j), 0.0 if layer.size(k, j) == layer.weights else errors[j])
            for k, errors in layer.errors.items()
            for j in range(1, len(errors))
        ]
        for layer in layers.values()
    ]
    return min(max(a[1], b[1]) for a, b in itertools.product(*options) if a[0] + b[0] <= budget)


def test_of_two_layers_it_finds_what_trying_everything_finds() -> None:
    exact = []
    for seed, ratio in itertools.product(range(3), (0.3, 0.4, 0.5, 0.6, 0.75)):
        layers = two_layers(seed)
        budget = ratio * sum(layer.weights for layer in layers.values())
        least = by_brute_force(layers, budget)
        every = [dict(zip("ab", pair, strict=True)) for pair in itertools.product(*(x.errors for x in layers.values()))]
        levels = [level for splits in every if (level := level_within(layers, splits, budget)) is not None]
        level, designs = within(layers, ratio, seed=0)
        found = max(layers[name].errors[design[0].groups][design[0].rank] for name, design in designs.items())
        sizes = [
            layer.size(designs[name][0].groups, designs[name][0].rank) if name in designs else layer.weights
            for name, layer in layers.items()
        ]
        assert least == pytest.approx(min(levels)) and sum(sizes) <= budget
        assert least * (1 - 1e-12) <= found <= level <= 1.05 * least
        exact.append(found == pytest.approx(least))
    assert sum(exact) >= 13  # of 15: alternating may end in a local optimum


def test_ranks_at_a_level_are_the_least_and_the_level_is_too() -> None:
    layers = {"a": LayerErrors((4, 8, 1, 1), {1: [1.0, 0.6, 0.3, 0.1, 0.0]})}
    assert [layers["a"].rank(1, level) for level in (1, 0.6, 0.59, 0.3, 0)] == [1, 1, 2, 2, 4]
    # ranks cost 12 of 32 weights: 12, 24, and from 3 on the layer stays dense
    assert level_within(layers, {"a": 1}, 24) == 0.3 and level_within(layers, {"a": 1}, 23) == 0.6
    assert level_within(layers, {"a": 1}, 32) == 0 and level_within(layers, {"a": 1}, 11) is None
    assert designs_at(layers, 0.1, {"a": 1}) == {} and designs_at(layers, 0.3, {"a": 1})["a"][0].rank == 2


def test_the_tightest_budget_ends_in_one_group_and_the_seed_repeats_itself() -> None:
    layers = {name: layer_errors(layer) for name, layer in decomposable(dense().module).items()}
    weights = sum(layer.weights for layer in layers.values())
    least = least_ratio({name: layer.shape for name, layer in layers.items()})
    _, splits = search(layers, least * weights, seed=0)
    assert set(splits.values()) == {1}
    assert search(layers, 0.3 * weights, seed=1) == search(layers, 0.3 * weights, seed=1)
    level, pessimistic = (search(layers, 0.3 * weights, 1, legacy)[0] for legacy in (False, True))
    assert level <= pessimistic


def test_the_classifier_first_layer_and_shortcuts_are_decomposed_and_the_budget_holds() -> None:
    network = dense()
    layers = {name: layer_errors(layer) for name, layer in decomposable(network.module).items()}
    assert {"conv", "fc", "layer2.0.shortcut.conv"} < set(layers) and len(layers) == 10
    before = count(network.module, network.input_shape).weights
    _, designs = within(layers, 0.3, seed=0)
    decompose(network, designs)
    assert 0.95 * 0.3 * before < count(network.module, network.input_shape).weights <= 0.3 * before


@pytest.mark.parametrize(("quantity", "value"), [("speed_up", 2.0), ("sparsity", 0.6)])
def test_bisection_uses_the_limit_as_far_as_a_scan_of_ratios_does(quantity, value) -> None:
    """What a ratio costs is not monotone in it, since the choices of groups jump."""
    network, target = dense(), Target(quantity, value)
    layers = {name: layer_errors(layer) for name, layer in decomposable(network.module).items()}
    prices, limit = limited(network, target)
    least = least_ratio({name: layer.shape for name, layer in layers.items()})
    scan = [prices.total(within(layers, least + (1 - least) * (step + 0.5) / 30, 0)[1]) for step in range(30)]
    _, _, found = _for_target(network, target, layers, 0, False)
    assert max(total for total in scan if total <= limit) - 0.01 * limit <= prices.total(found) <= limit


def test_the_stages_and_a_network_that_is_trained_already() -> None:
    network = dense()
    assert [stage.name for stage in ALDS(ratio=0.4).plan(None, network, RECIPE)] == ["train", "decompose"]
    assert ALDS(ratio=0.4).plan(None, network, RECIPE)[0] == Fit("train", RECIPE)
    tuned = ALDS(ratio=0.4, finetune=RecipeOverrides(epochs=1, learning_rate=0.01)).plan(None, network, RECIPE)
    assert tuned[2] == Fit("finetune", RECIPE.changed(RecipeOverrides(1, 0.01)))
    network.pretrained = True
    for method in (ALDS(), LRS2()):
        (edit,) = method.plan(Target("speed_up", 2), network, RECIPE)
        assert isinstance(edit, Edit) and edit.arguments["goal"] == Goal("speed_up", 2)


def run(output: Path, *more: str) -> walk.Result:
    return walk.run(["method=alds", *SMALL, *QUIET, f"output={output}", *more])


@pytest.mark.parametrize(("target", "metric"), [("speed_up=2", "cost/speed_up"), ("sparsity=0.6", "cost/sparsity")])
def test_targets_are_reached_and_hardly_passed(target, metric, tmp_path: Path) -> None:
    wanted = float(target.split("=")[1])
    assert wanted <= run(tmp_path, target).metrics[metric] < 1.05 * wanted


def test_its_metrics_tell_the_loss_and_what_finetuning_wins_back(tmp_path: Path) -> None:
    words = ["recipe.epochs=4", "dataset.fraction=0.5", "method.ratio=0.4"]
    bare, tuned = (run(tmp_path, *words, *more) for more in ([], ["method.finetune.epochs=2"]))
    assert bare.metrics["decomposed/top1"] == bare.metrics["final/top1"] == tuned.metrics["decomposed/top1"]
    assert bare.metrics["gain/base_top1"] == bare.metrics["final/top1"] - bare.metrics["base/top1"]
    assert bare.metrics["best/top1"] == bare.metrics["final/top1"]  # not an epoch of the dense network's
    assert tuned.metrics["final/top1"] > bare.metrics["final/top1"]
    assert tuned.metrics["cost/macs"] == bare.metrics["cost/macs"]
    experiment = prepare(compose(["method=alds", *SMALL, *QUIET, f"output={tmp_path}", *words]))
    figure = experiment.method.figures(experiment.outcomes())["designs"]
    notes = experiment.outcomes()[-1].notes
    assert notes["ratio"] == 0.4 and 0 < notes["error"] < 1
    assert list(figure.data[0].x) == list(notes["designs"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], r"alds takes its budget from one of .*method\.ratio=, got none"),
        (["method.ratio=0.5", "speed_up=2"], r"got speed_up=2 and method\.ratio=0\.5"),
        (["method.ratio=1.5"], r"method\.ratio=1\.5 \(in \(0, 1\), or null\)"),
        (["method.ratio=0.001"], r"method\.ratio=0\.001 is out of reach: rank 1 everywhere keeps 0\.0"),
        (["sparsity=0.999"], r"sparsity=0\.999 is out of reach: rank 1 everywhere gives sparsity=0\.9"),
        (["method.ratio=0.5", "method.finetune.learning_rate=0.1"], "learning_rate is set, but nothing is finetuned"),
        (["method.ratio=0.5", "method.finetune.epochs=-1"], r"method\.finetune\.epochs=-1 \(at least 0, or null\)"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(words, says, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says) as error:
        prepare(compose(["method=alds", *SMALL, *QUIET, f"output={tmp_path}", *words])).steps  # noqa: B018
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", [["method=alds", "speed_up=1.5"], ["method=lr_s2", "speed_up=1.5"], ["method=f_group"]]
)
def test_the_baselines_on_real_images(words, shared_data: Path, tmp_path: Path) -> None:
    few = [f"dataset.root={shared_data / 'cifar10'}", "dataset.classes=2", "dataset.fraction=0.2", "recipe.epochs=2"]
    small = ["dataset=cifar10", "model.depth=8", "recipe.batch_size=50", "tracking=off", *few, *QUIET]
    tuned = ["method.finetune={epochs:1,learning_rate:0.01}"]
    found = walk.run([*words, *small, *tuned, f"output={tmp_path}"]).metrics
    assert found["cost/speed_up"] >= 1.5 and found["base/top1"] > 60
    assert found["final/top1"] > 60 and found["decomposed/top1"] <= found["base/top1"] + 5


@pytest.mark.slow
@pytest.mark.parametrize("model", ["mobilenet_v2", "efficientnet_b0"])
@pytest.mark.parametrize("method", [ALDS(), LRS2(), LRS2(legacy_cost=True)], ids=["alds", "lr_s2", "legacy"])
def test_networks_for_imagenet(method, model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "accuracy", lambda *_: {"top1": 0.0, "top5": 0.0})  # random weights
    network = blueprint.create({"_target_": f"paredown.models.torchvision.{model}"}, (3, 224, 224))
    before = count(network.module, network.input_shape).macs
    edit = method.plan(Target("speed_up", 1.2), network, RECIPE)[1]
    notes = edit.function(network, Context(None, torch.device("cpu"), 0), **edit.arguments)
    depthwise = {name for name, m in network.module.named_modules() if isinstance(m, nn.Conv2d) and m.groups > 1}
    assert notes["designs"] and not depthwise & set(notes["designs"])
    assert 1.2 <= before / count(network.module, network.input_shape).macs < 1.3
