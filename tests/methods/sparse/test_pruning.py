"""Pruning by scores: what the methods plan, how they rewind, what their hyperparameters reach, and what they refuse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit, Outcome
from paredown.core.recipe import Recipe
from paredown.core.target import Goal, Target
from paredown.cost import count
from paredown.experiment.prepare import prepare
from paredown.layers.masked import Masked
from paredown.methods.sparse.grasp import GraSP
from paredown.methods.sparse.interspace import convolutions, interspace
from paredown.methods.sparse.lottery import Lottery
from paredown.methods.sparse.obd import OBD
from paredown.methods.sparse.pruning import prune, rewind
from paredown.run import walk
from paredown.surgery import curvature, saliency
from paredown.surgery.sparsify import sizes
from paredown.training.hooks.part import Part

SMALL = ["dataset=digits", "model=resnet20", "model.depth=8", "debug=fast", "latency.seconds=0.02", "tracking=off"]
CPU = torch.device("cpu")


def network() -> Network:
    torch.manual_seed(0)
    return blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 8, 8))


def layers(of: Network) -> dict[str, Masked]:
    return {name: layer for name, layer in of.module.named_modules() if isinstance(layer, Masked)}


def prepared(output: Path, *words: str) -> Any:
    return prepare(compose([*SMALL, f"output={output}", "trainer.progress=false", *words]))


def two_layers() -> Network:
    net = nn.Sequential(nn.Linear(2, 3, bias=False), nn.ReLU(), nn.Linear(3, 2, bias=False))
    net[0].weight.data = torch.tensor([[0.5, -1], [1.5, 0.25], [-0.75, 1]])
    net[2].weight.data = torch.tensor([[1, -0.5, 0.25], [-1, 0.75, 0.5]])
    return Network(net, {}, (2,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rounds", "first", "second"),
    [
        (1, [[0, 1], [1, 0], [0, 0]], [[0, 0, 0], [0, 0, 0]]),  # the best weights, and no path
        (5, [[0, 1], [0, 0], [0, 0]], [[1, 0, 0], [0, 0, 0]]),
        (10, [[0, 0], [1, 0], [0, 0]], [[0, 0, 0], [0, 1, 0]]),  # the best path
        (100, [[0, 0], [1, 0], [0, 0]], [[0, 0, 0], [0, 1, 0]]),
    ],
)
def test_synflow_in_many_rounds_keeps_a_path(rounds: int, first: list[list[int]], second: list[list[int]]) -> None:
    made = two_layers()
    prune(made, Context(None, CPU, 0), saliency=saliency.SynFlow(), goal=Goal("sparsity", 1 - 2 / 12), rounds=rounds)
    found = [layer.mask.int().tolist() for layer in layers(made).values()]
    assert found == [first, second]


def test_a_rewinding_restores_everything_but_the_masks() -> None:
    start, made = network(), network()
    for tensor in (*made.module.parameters(), *made.module.buffers()):
        tensor.data = tensor.data + 1
    prune(made, Context(None, CPU, 0), saliency=saliency.Magnitude(), goal=Goal("sparsity", 0.7))
    masks = {name: layer.mask.clone() for name, layer in layers(made).items()}
    rewind(made, Context(None, CPU, 0, earlier=lambda name: {"begun": start}[name]), to="begun")
    state = made.module.state_dict()
    for name, value in start.module.state_dict().items():
        mask = masks.get(name.removesuffix(".weight"), torch.tensor(True))
        assert torch.equal(state[name], value * mask), name
    assert all(torch.equal(layer.mask, masks[name]) for name, layer in layers(made).items())


def test_lottery_plans_its_rounds_and_shares_the_dense_training(tmp_path: Path) -> None:
    words = ["recipe.epochs=6", "sparsity=0.9", "method=lottery"]
    plain = prepared(tmp_path, *words)
    assert [step.stage.name for step in plain.steps] == ["train", "prune", "rewind", "retrain"]
    assert plain.steps[0].key == prepared(tmp_path, "recipe.epochs=6", "method=dense").steps[0].key
    late = prepared(tmp_path, *words, "method.rewind=2", "method.rounds=2")
    names = ["start", "train", "prune", "rewind", "retrain", "prune-2", "rewind-2", "retrain-2"]
    assert [step.stage.name for step in late.steps] == names
    epochs = [step.stage.recipe.epochs for step in late.steps if isinstance(step.stage, Fit)]
    assert epochs == [2, 4, 4, 4]
    assert [step.stage.arguments["to"] for step in late.steps if "rewind" in step.stage.name] == ["start", "start"]


def test_rounds_of_a_given_fraction_share_their_beginning() -> None:
    few, many = (Lottery(per_round=0.8).goals(Target("sparsity", value)) for value in (0.9, 0.95))
    assert (len(few), len(many)) == (11, 14)
    assert [goal.number() for goal in few[:10]] == [goal.number() for goal in many[:10]]
    assert few[-1] == Goal("sparsity", 0.9)
    assert [round(10 * (1 - goal.number())) for goal in few[:4]] == [8, 6, 5, 4]
    by_macs = Lottery(rounds=3).goals(Target("speed_up", 8.0))
    assert [goal.number() for goal in by_macs] == pytest.approx([2, 4, 8])


def test_a_part_has_the_learning_rates_of_the_whole() -> None:
    whole = Recipe(epochs=8)
    rates = [Part(whole, 3).rate([{}] * epoch) for epoch in range(5)]
    assert rates == pytest.approx([1, 0.1, 0.1, 0.01, 0.01])


def test_the_retraining_logs_the_learning_rates_of_the_whole(tmp_path: Path) -> None:
    words = ["method=lottery", "sparsity=0.9", "method.rewind=1", "recipe.epochs=4"]
    point = prepared(tmp_path, *words)
    walk.run([*SMALL, f"output={tmp_path}", "trainer.progress=false", *words])
    found = [row["learning_rate"] for row in point.store.record(point.steps[-1].key).history]
    whole = prepared(tmp_path, "method=dense", "recipe.epochs=4").steps[0].stage.recipe.learning_rate
    assert found == pytest.approx([whole, 0.1 * whole, 0.01 * whole])
    last = layers(point.store.read(point.steps[-1].key))
    total = sum(sizes(point.dense()).values())
    assert sum(layer.active_weights() for layer in last.values()) == total - math.floor(0.9 * total + 0.5)
    assert all(not layer.weight[~layer.mask].any() for layer in last.values())


@pytest.mark.parametrize(
    ("words", "arrives"),
    [
        (["method=snip", "method.per_class=3", "method.draws=2", "method.chunk=7"], saliency.SNIP(3, 2, 7)),
        (["method=snip", "method.batch_norm=eval"], saliency.SNIP(batch_norm="eval")),
        (["method=grasp", "method.temperature=1"], saliency.GraSP(temperature=1.0)),
        (["method=grasp", "method.classifier=own"], saliency.GraSP(classifier="own")),
        (["method=grasp", "method.order=smallest_magnitude"], saliency.GraSP(order="smallest_magnitude")),
        (["method=synflow"], saliency.SynFlow()),
        (["method=magnitude", "method.before_training=true"], saliency.Magnitude()),
        (["method=obd", "method.images=7", "method.chunk=3", "method.labels=given"], curvature.OBD(7, 3, "given")),
        (
            ["method=mlprune", "method.damping=0.1", "method.labels=expected"],
            curvature.MLPrune(None, 32, "expected", 0.1),
        ),
    ],
)
def test_what_is_set_arrives_at_the_scores(words: list[str], arrives: saliency.Saliency, tmp_path: Path) -> None:
    shared = ["sparsity=0.8", "method.scope=layer", "method.least=2"]
    edit = next(step.stage for step in prepared(tmp_path, *words, *shared).steps if isinstance(step.stage, Edit))
    assert edit.arguments["saliency"] == arrives
    assert (edit.arguments["scope"], edit.arguments["least"]) == ("layer", 2)
    assert edit.arguments["goal"] == Goal("sparsity", 0.8)


def test_rounds_arrive(tmp_path: Path) -> None:
    for method, rounds in (("snip", 3), ("grasp", 2), ("synflow", 7)):
        steps = prepared(tmp_path, f"method={method}", f"method.rounds={rounds}", "sparsity=0.8").steps
        assert steps[0].stage.arguments["rounds"] == rounds


class Seen:
    """Stands for a data module: notes what is asked of it."""

    class_names = ("a", "b", "c")

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def balanced(self, *asked: Any, chunk: int | None = None) -> list[tuple[Tensor, Tensor]]:
        self.asked.append((*asked, chunk))
        images = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        return [(images, torch.tensor([0, 0, 1, 1, 2, 2]))]


def test_images_follow_from_the_stages_seed_in_halves_for_grasp() -> None:
    made, data = network(), Seen()
    context = Context(data, CPU, 5)
    before = {name: value.clone() for name, value in made.module.state_dict().items()}
    saliency.SNIP(2, 3).scores(made, context)
    saliency.GraSP(3, 1).scores(made, context)
    halves = ("train", 3, 1, 5, CPU, 5)
    assert data.asked == [("train", 2, 3, 5, CPU, None), halves, halves]  # twice: for the gradient and the Hessian
    assert all(torch.equal(value, before[name]) for name, value in made.module.state_dict().items())


def test_grasp_keeps_what_its_formula_calls_smallest() -> None:
    made, context = network(), Context(Seen(), CPU, 0)
    raw = saliency.grasp(made.module.train(), Seen().balanced())
    kept = saliency.GraSP(2, 1, 6, temperature=1.0, classifier="own").scores(made, context)
    assert all(torch.allclose(kept[name], -raw[name], rtol=1e-3, atol=1e-6) for name in raw)
    near = saliency.GraSP(2, 1, 6, temperature=1.0, classifier="own", order="smallest_magnitude").scores(made, context)
    assert all(torch.equal(near[name], kept[name].abs()) for name in raw)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=snip"], "snip prunes to a target: give sparsity= or speed_up="),
        (["method=snip", "sparsity=0.9", "method.per_class=1000"], "1000"),
        (
            ["method=magnitude", "sparsity=0.999", "method.scope=layer", "method.least=0"],
            "method.scope=layer cannot reach sparsity=0.999",
        ),
        (["method=lottery", "sparsity=0.9", "recipe.epochs=3", "method.rewind=3"], "method.rewind=3 is beyond"),
        (["method=lottery", "sparsity=0.9", "method.per_round=0.8", "method.rounds=2"], "leave method.rounds at 1"),
        (["method=grasp", "sparsity=0.9", "method.temperature=0"], r"method.temperature=0.* \(above 0\)"),
        (
            ["method=obd", "sparsity=0.9", "method.images=5000"],
            "method.images=5000 is more than the 129 training images",
        ),
        (["method=mlprune", "sparsity=0.9", "method.damping=0"], r"method.damping=0 \(above 0\)"),
        (["method=snip", "speed_up=1e7"], "speed_up=1e.07 leaves 0 of 763,520 multiply-adds, 1 are needed"),
        (["method=snip", "speed_up=1000", "method.least=100"], "leaves 764 of 763,520 multiply-adds, 25,300 are"),
        (["method=grasp", "speed_up=4", "method.interspace=true"], r"264,385 are needed .*what no mask reaches"),
        (["method=snip", "method.interspace=true", "sparsity=0.9", "method.basis=my"], "method.basis='my'"),
        (["method=synflow", "sparsity=0.9", "method.rounds=0"], r"method.rounds=0 \(at least 1\)"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        assert prepared(tmp_path, *words).steps


@pytest.mark.parametrize("method", ["obd", "mlprune", "snip"])
def test_locally_connected_layers_have_no_curvature_but_a_gradient(method: str, tmp_path: Path) -> None:
    words = [*(word for word in SMALL if "model" not in word), "model=s_local", "model.alpha=2", f"output={tmp_path}"]
    experiment = prepare(compose([*words, f"method={method}", "sparsity=0.9"]))
    if method == "snip":
        assert [step.stage.name for step in experiment.steps] == ["prune", "train"]
        return
    with pytest.raises(UserError, match="is a LocallyConnected2d; prune it by method=magnitude, snip or grasp"):
        assert experiment.steps


def test_rounds_after_training_prune_and_finetune_in_turns(tmp_path: Path) -> None:
    words = ["method=obd", "sparsity=0.875", "method.rounds=3", "method.finetune={epochs: 1, learning_rate: 0.02}"]
    steps = prepared(tmp_path, *words, "method.least=2").steps
    recipes = [step.stage.recipe for step in steps if "finetune" in step.stage.name]
    assert {(recipe.epochs, recipe.learning_rate) for recipe in recipes} == {(1, 0.02)}
    assert {step.stage.arguments["least"] for step in steps if "prune" in step.stage.name} == {2}
    names = ["train", "prune", "finetune", "prune-2", "finetune-2", "prune-3", "finetune-3"]
    assert [step.stage.name for step in steps] == names
    goals = [step.stage.arguments["goal"].number() for step in steps if "prune" in step.stage.name]
    assert goals == pytest.approx([0.5, 0.75, 0.875])
    assert prepared(tmp_path, "method=dense").steps[0].key == steps[0].key
    alone = prepared(tmp_path, "method=magnitude", "sparsity=0.875", "method.finetune.epochs=0").steps
    assert [step.stage.name for step in alone] == ["train", "prune"]


def test_accuracies_are_those_before_the_first_and_after_the_last_pruning(tmp_path: Path) -> None:
    words = ["method=obd", "sparsity=0.8", "method.rounds=2", "method.images=64", "method.finetune.epochs=1"]
    found = walk.run([*SMALL, f"output={tmp_path}", "trainer.progress=false", "recipe.epochs=1", *words]).metrics
    point = prepared(tmp_path, "recipe.epochs=1", *words)
    records = {step.stage.name: point.store.record(step.key) for step in point.steps}
    assert found["base/top1"] == records["train"].history[-1]["test/top1"]
    assert found["pruned/top1"] == records["prune-2"].notes["pruned"]["top1"]
    assert found["cost/sparsity"] == pytest.approx(0.8, abs=1e-4)
    assert found["price/other_images"] == 2 * 64


def test_without_test_images_there_are_no_accuracies_around_the_pruning() -> None:
    notes = {"kept": {"a": 1}, "of": {"a": 2}, "base": {}, "pruned": {}}
    outcome = Outcome(Edit("prune", prune, {}), [], notes, network, dict)
    assert OBD().metrics([outcome]) == {"layers/without_weights": 0.0}


@pytest.mark.parametrize("scored", [saliency.SNIP(2), saliency.GraSP(2), saliency.SynFlow()])
def test_in_unit_kernels_coefficients_are_scored_as_weights_are(scored: saliency.Saliency) -> None:
    context, plain, made = Context(Seen(), CPU, 0), network(), network()
    interspace(made, context, convolutions(made), "standard")
    dense = {name: layer.weight for name, layer in plain.module.named_modules() if isinstance(layer, nn.Conv2d)}
    assert all(torch.equal(made.module.get_submodule(name).weight, weight) for name, weight in dense.items())
    goal = Goal("sparsity", 0.8)
    notes = [prune(each, context, saliency=scored, goal=goal, rounds=2) for each in (plain, made)]
    assert notes[0] == notes[1]
    assert notes[0].get("images") == (None if isinstance(scored, saliency.SynFlow) else 2 * 2 * 3)
    masks, ours = layers(plain), layers(made)
    assert all(torch.equal(ours[name].mask, masks[name].mask) for name in masks)


def test_in_another_basis_other_coefficients_stay() -> None:
    context, plain, made = Context(Seen(), CPU, 0), network(), network()
    interspace(made, context, convolutions(made), "orthonormal")
    for each in (plain, made):
        prune(each, context, saliency=saliency.SNIP(2), goal=Goal("sparsity", 0.8))
    masks, ours = layers(plain), layers(made)
    assert any(not torch.equal(ours[name].mask, masks[name].mask) for name in masks)


def test_interspace_is_planned_trained_and_counted(tmp_path: Path) -> None:
    words = ["method=synflow", "method.interspace=true", "method.basis=orthonormal", "method.rounds=3"]
    words += ["sparsity=0.8", "recipe.epochs=1"]
    point = prepared(tmp_path, *words)
    assert [step.stage.name for step in point.steps] == ["interspace", "prune", "train"]
    names = point.steps[0].stage.arguments["names"]
    assert "conv" in names and not any("shortcut" in name for name in names)  # those are 1 x 1
    found = walk.run([*SMALL, f"output={tmp_path}", "trainer.progress=false", *words]).metrics
    made = point.store.read(point.steps[-1].key)
    total = sum(sizes(point.dense()).values())
    kept = total - math.floor(0.8 * total + 0.5)
    assert sum(int(layer.mask.sum()) for layer in layers(made).values()) == kept
    assert found["cost/weights"] == kept + 81 * len(names)
    start = point.store.read(point.steps[1].key)
    bases = [of.module.get_submodule("conv").basis for of in (start, made)]
    assert not torch.equal(*bases)  # it is trained


def test_interspace_meets_a_speed_up_with_its_bases_counted() -> None:
    made, context = network(), Context(Seen(), CPU, 0)
    dense = count(made.module, made.input_shape).macs
    interspace(made, context, convolutions(made), "standard")
    prune(made, context, saliency=saliency.SNIP(2), goal=Goal("speed_up", 2.0))
    found = count(made.module, made.input_shape).macs
    assert dense / 2 - 64 <= found <= dense / 2


def test_grasp_is_a_method_with_the_authors_defaults() -> None:
    made = GraSP()
    assert (made.per_class, made.draws, made.temperature, made.classifier) == (10, 1, 200.0, "xavier")
