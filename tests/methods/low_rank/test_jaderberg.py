"""Jaderberg's filters against other sums of separable filters; the plan; finetuning trains what was decomposed."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identified
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target
from paredown.cost import count
from paredown.experiment.prepare import prepare
from paredown.layers.factorised.forms import weighted
from paredown.layers.factorised.pair import Pair
from paredown.methods.low_rank.jaderberg import Jaderberg, refit
from paredown.methods.low_rank.pairs import truncate
from paredown.run import walk
from paredown.surgery.factorise import convolutions

RECIPE = Recipe(epochs=3, learning_rate=0.05, milestones=(0.5, 0.75))
LAYER = "layer2.0.conv2"
SMALL = ["dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.1", "recipe.epochs=2"]
CHEAP = ["latency.seconds=0.02", "tracking=off", "trainer.progress=false"]


def network(seed: int = 0) -> Network:
    """ResNet-8 in float64 whose batch norms have statistics and weights of their own."""
    torch.manual_seed(seed)
    made = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 8, 8))
    made.module.double().eval()
    for norm in made.module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 1.5)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(0, 0.3)
    return made


def filters(pair: Pair) -> tuple[Tensor, Tensor]:
    """Vertical filters (r, c, kh) and horizontal ones (n, r, kw)."""
    first, second = weighted(pair.body)
    return first.weight.detach()[..., 0], second.weight.detach()[:, :, 0]


def alternating_least_squares(matrix: Tensor, rank: int, seed: int) -> float:
    """Squared error from a random start by solving for one kind of filters after the other."""
    horizontal = torch.randn(rank, matrix.shape[1], generator=torch.Generator().manual_seed(seed), dtype=matrix.dtype)
    for _ in range(100):
        vertical = torch.linalg.lstsq(horizontal.T, matrix.T).solution.T
        horizontal = torch.linalg.lstsq(vertical, matrix).solution
    return float((matrix - vertical @ horizontal).square().sum())


@pytest.mark.parametrize("rank", [1, 5, 20])
def test_the_filters_are_the_best_of_that_rank(rank: int, exact: Context) -> None:
    made = network()
    weight = made.module.get_submodule(LAYER).weight.detach().clone()
    truncate(made, exact, "vertical_first", [LAYER], Goal("ranks", {LAYER: rank}))
    vertical, horizontal = filters(made.module.get_submodule(LAYER))
    sums = torch.einsum("kci,nkj->ncij", vertical, horizontal)
    error = float((sums - weight).square().sum())
    every = [[weight[n, c, i, j] for n in range(32) for j in range(3)] for c in range(32) for i in range(3)]
    dropped = np.linalg.svd(np.array(every), compute_uv=False)[rank:]
    assert error == pytest.approx(float((dropped**2).sum()), rel=1e-9)
    matrix = torch.tensor(every)
    assert min(alternating_least_squares(matrix, rank, seed) for seed in range(2)) >= error * (1 - 1e-9)
    for scale in (1e-3, 1e-1):
        noisy = [part + scale * torch.randn_like(part) for part in (vertical, horizontal)]
        assert float((torch.einsum("kci,nkj->ncij", *noisy) - weight).square().sum()) > error
    torch.testing.assert_close(vertical.square().sum((1, 2)), horizontal.square().sum((0, 2)))  # evenly split


def test_the_layer_computes_the_convolution_with_the_truncated_weight(exact: Context) -> None:
    made, x = network(), torch.randn(2, 16, 9, 8, dtype=torch.float64)
    name = "layer2.0.conv1"  # of stride 2
    conv = copy.deepcopy(made.module.get_submodule(name))
    truncate(made, exact, "vertical_first", [name], Goal("ranks", {name: 7}))
    pair = made.module.get_submodule(name)
    conv.weight.data = torch.einsum("kci,nkj->ncij", *filters(pair))
    torch.testing.assert_close(pair(x), conv(x))
    design = {"factorisation": "vertical_first", "groups": 1, "rank": 7}
    assert made.blueprint == {name: {"kind": "pair", **design, "bias": False}}


def full_ranks(made: Network) -> dict[str, int]:
    layers = convolutions(made.module)
    return {
        name: min(conv.in_channels * conv.kernel_size[0], conv.out_channels * conv.kernel_size[1])
        for name, conv in layers.items()
    }


def test_at_full_rank_the_network_stays_what_it_was_and_its_cost_is_told(
    exact: Context, caplog: pytest.LogCaptureFixture
) -> None:
    made, x = network(), exact.data.images
    before, full = made.module(x).detach(), full_ranks(made)
    notes = truncate(made, exact, "vertical_first", list(full), Goal("energy", 0.0))
    assert notes["ranks"] == notes["full_ranks"] == full
    torch.testing.assert_close(made.module(x).detach(), before)
    (warning,) = caplog.records
    says = r"decompose: the low-rank network needs 1\.9\dx the MACs of the dense one: take lower ranks"
    assert re.fullmatch(says, warning.getMessage())


def test_responses_are_kept_better_by_fitting_them(exact: Context) -> None:
    made, x = network(), exact.data.images
    names, before = list(convolutions(made.module)), made.module(x).detach()
    errors = {}
    for way in ("filter", "data"):
        other = copy.deepcopy(made)
        if way == "filter":
            truncate(other, exact, "vertical_first", names, Goal("speed_up", 3))
        else:
            notes = refit(other, exact, names, Goal("speed_up", 3), 96, 64)
        errors[way] = float((other.module(x) - before).square().sum())
    assert errors["data"] < 0.5 * errors["filter"]
    assert list(notes["errors"]["reconstructed"]) == names and max(notes["errors"]["reconstructed"].values()) < 1
    json.dumps(notes)


def test_fitting_at_full_rank_changes_nothing_to_speak_of(exact: Context) -> None:
    made, x = network(), exact.data.images
    before = made.module(x).detach()
    refit(made, exact, list(full_ranks(made)), Goal("ranks", full_ranks(made)), 96, 64)
    assert float((made.module(x) - before).square().mean().sqrt() / before.std()) < 0.02  # the regression's cutoff


@pytest.mark.parametrize("target", [Target("speed_up", 2.5), Target("sparsity", 0.8)])
def test_a_target_is_reached_and_hardly_passed(target: Target, exact: Context) -> None:
    made = network()
    before = count(made.module, made.input_shape)
    _, edit, _ = Jaderberg().plan(target, made, RECIPE)
    edit.function(made, exact, **edit.arguments)
    after = count(made.module, made.input_shape)
    found = {"speed_up": before.macs / after.macs, "sparsity": 1 - after.weights / before.weights}[target.quantity]
    assert target.value <= found < target.value * 1.02


def test_the_plan_shares_the_dense_training_and_restarts_the_rate() -> None:
    made = network()
    train, edit, tune = Jaderberg(energy=0.15).plan(None, made, RECIPE)
    assert train == Fit("train", RECIPE)
    assert isinstance(edit, Edit) and edit.arguments["goal"] == Goal("energy", 0.15) and identified(edit.arguments)
    assert tune == Fit("finetune", Recipe(epochs=4, learning_rate=0.05, milestones=(0.5,)))
    assert Jaderberg(energy=0.15, finetune=RecipeOverrides(epochs=0)).plan(None, made, RECIPE) == [train, edit]
    (_, fitted, _) = Jaderberg(energy=0.15, reconstruct="data", images=50).plan(None, made, RECIPE)
    assert fitted.function is refit and fitted.arguments["images"] == 50


def test_the_hyperparameters_of_the_yaml_are_the_defaults(tmp_path: Path) -> None:
    assert prepare(compose(["method=jaderberg", *SMALL, *CHEAP, f"output={tmp_path}"])).method == Jaderberg()


@pytest.mark.parametrize(
    ("settings", "target", "words"),
    [
        ({}, None, r"jaderberg takes its ranks from one of sparsity=, speed_up=, method\.energy= .*, got none"),
        ({"energy": 0.1}, Target("speed_up", 2), r"got speed_up=2 and method\.energy=0\.1"),
        ({"energy": 1.0}, None, r"method\.energy=1.* \(in \[0, 1\): the fraction of squared"),
        ({"images": 1}, None, r"method\.images=1 \(at least 2\)"),
        ({"positions": 0}, None, r"method\.positions=0 \(at least 1\)"),
        ({"ranks": {"layer1.0.con1": 3}}, None, r"no convolution 'layer1\.0\.con1' to decompose: did you mean layer1"),
        ({"ranks": {"conv": 10}}, None, "conv has ranks from 1 to 9, not 10"),
        ({}, Target("speed_up", 1000), r"speed_up=1000 is out of reach: rank 1 everywhere gives"),
        ({"select": "trp"}, Target("speed_up", 9), r"speed_up=9 is out of reach"),
    ],
)
def test_mistakes_are_one_line(settings: dict, target: Target | None, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        Jaderberg(**settings).plan(target, network(), RECIPE)
    assert "\n" not in str(error.value)


def test_a_network_without_such_a_convolution_is_refused() -> None:
    made = Network(nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)), {}, (4, 8, 8))
    with pytest.raises(UserError, match=r"no convolution to factorise \(method\.select=all\)"):
        Jaderberg(energy=0.1).plan(None, made, RECIPE)


def test_finetuning_trains_the_decomposed_network(tmp_path: Path) -> None:
    words = ["method=jaderberg", "speed_up=2", *SMALL, *CHEAP, f"output={tmp_path}", "method.finetune.epochs=1"]
    result = walk.run(words)
    experiment = prepare(compose(words))
    before, after = (experiment.store.read(step.key).module for step in experiment.steps[1:])
    pairs = {name: layer for name, layer in before.named_modules() if isinstance(layer, Pair)}
    assert len(pairs) == 9
    for name, pair in pairs.items():
        trained = after.get_submodule(name)
        for one, other in zip(pair.parameters(), trained.parameters(), strict=True):
            assert not torch.equal(one, other)
    assert {"decomposed/top1", "rank/sum", "rank/full", "dense/top1", "gain/top1"} <= set(result.metrics)


def test_without_finetuning_the_best_epoch_is_that_of_no_other_network(tmp_path: Path) -> None:
    words = ["method=jaderberg", "speed_up=5", *SMALL, *CHEAP, f"output={tmp_path}", "method.finetune.epochs=0"]
    metrics = walk.run(words).metrics
    assert metrics["best/top1"] == metrics["final/top1"] == metrics["decomposed/top1"]
