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

from paredown import blueprint, execute
from paredown.config import compose
from paredown.cost import count
from paredown.errors import UserError
from paredown.experiment import prepare
from paredown.layers.conv_pair import ConvPair
from paredown.methods._pairs import truncate
from paredown.methods.jaderberg import Jaderberg, refit
from paredown.plan import Changes, Context, Edit, Fit, Network, Recipe, Target
from paredown.surgery.low_rank import convolutions

RECIPE = Recipe(epochs=3, learning_rate=0.05, milestones=(0.5, 0.75))
LAYER = "layer2.0.conv2"
SMALL = ["dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.1", "recipe.epochs=2"]
CHEAP = ["latency.seconds=0.02", "tracking=off", "trainer.progress=false"]


def network(seed: int = 0) -> Network:
    """ResNet-8 in float64 whose batch norms have statistics and weights of their own."""
    torch.manual_seed(seed)
    made = blueprint.create({"_target_": "paredown.models.resnet.cifar_resnet", "depth": 8}, (3, 8, 8))
    made.module.double().eval()
    for norm in made.module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 1.5)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(0, 0.3)
    return made


def filters(pair: ConvPair) -> tuple[Tensor, Tensor]:
    """Vertical filters (r, c, kh) and horizontal ones (n, r, kw)."""
    return pair.first.weight.detach()[..., 0], pair.second.weight.detach()[:, :, 0]


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
    truncate(made, exact, "spatial", [LAYER], {"ranks": {LAYER: rank}})
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
    truncate(made, exact, "spatial", [name], {"ranks": {name: 7}})
    pair = made.module.get_submodule(name)
    conv.weight.data = torch.einsum("kci,nkj->ncij", *filters(pair))
    torch.testing.assert_close(pair(x), conv(x))
    assert made.blueprint == {name: {"kind": "conv_pair", "form": "spatial", "rank": 7, "bias": False}}


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
    notes = truncate(made, exact, "spatial", list(full), {"energy": 0.0})
    assert notes["ranks"] == notes["full_ranks"] == full
    torch.testing.assert_close(made.module(x).detach(), before)
    (warning,) = caplog.records
    assert re.fullmatch(r"decompose: the pairs need 1\.9\dx the MACs of the dense network.*", warning.getMessage())


def test_responses_are_kept_better_by_fitting_them(exact: Context) -> None:
    made, x = network(), exact.data.images
    names, before = list(convolutions(made.module)), made.module(x).detach()
    errors = {}
    for way in ("filter", "data"):
        other = copy.deepcopy(made)
        if way == "filter":
            truncate(other, exact, "spatial", names, {"speed_up": 3})
        else:
            notes = refit(other, exact, names, {"speed_up": 3}, 96, 64)
        errors[way] = float((other.module(x) - before).square().sum())
    assert errors["data"] < 0.5 * errors["filter"]
    assert list(notes["errors"]["reconstructed"]) == names and max(notes["errors"]["reconstructed"].values()) < 1
    json.dumps(notes)


def test_fitting_at_full_rank_changes_nothing_to_speak_of(exact: Context) -> None:
    made, x = network(), exact.data.images
    before = made.module(x).detach()
    refit(made, exact, list(full_ranks(made)), {"ranks": full_ranks(made)}, 96, 64)
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
    assert isinstance(edit, Edit) and json.loads(json.dumps(edit.arguments)) == edit.arguments
    assert tune == Fit("finetune", Recipe(epochs=4, learning_rate=0.05, milestones=(0.5,)))
    assert Jaderberg(energy=0.15, finetune=Changes(epochs=0)).plan(None, made, RECIPE) == [train, edit]
    (_, fitted, _) = Jaderberg(energy=0.15, reconstruct="data", images=50).plan(None, made, RECIPE)
    assert fitted.function is refit and fitted.arguments["images"] == 50


def test_the_knobs_of_the_yaml_are_the_defaults(tmp_path: Path) -> None:
    assert prepare(compose(["method=jaderberg", *SMALL, *CHEAP, f"output={tmp_path}"])).method == Jaderberg()


@pytest.mark.parametrize(
    ("settings", "target", "words"),
    [
        ({}, None, r"jaderberg takes its ranks from one of sparsity=, speed_up=, method\.energy= .*, got none"),
        ({"energy": 0.1}, Target("speed_up", 2), r"got energy=0\.1, speed_up=2"),
        ({"energy": 1.0}, None, r"method\.energy=1 is not in \[0, 1\)"),
        ({"images": 1}, None, r"method\.images=1 is below 2"),
        ({"positions": 0}, None, r"method\.positions=0 is below 1"),
        ({"finetune": Changes(epochs=-1)}, None, r"method\.finetune\.epochs=-1 is below 0"),
        ({"ranks": {"layer1.0.con1": 3}}, None, r"no convolution 'layer1\.0\.con1' to decompose: did you mean layer1"),
        ({"ranks": {"conv": 10}}, None, "conv has ranks from 1 to 9 in spatial form, not 10"),
        ({}, Target("speed_up", 1000), r"speed_up=1000 is out of reach in spatial form: rank 1 everywhere gives"),
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
    result = execute.run(words)
    experiment = prepare(compose(words))
    before, after = (experiment.store.read(step.key).module for step in experiment.steps[1:])
    pairs = {name: layer for name, layer in before.named_modules() if isinstance(layer, ConvPair)}
    assert len(pairs) == 9
    for name, pair in pairs.items():
        trained = after.get_submodule(name)
        assert not torch.equal(pair.first.weight, trained.first.weight)
        assert not torch.equal(pair.second.weight, trained.second.weight)
    assert {"decomposed/top1", "rank/sum", "rank/full", "dense/top1", "gain/top1"} <= set(result.metrics)


def test_without_finetuning_the_best_epoch_is_that_of_no_other_network(tmp_path: Path) -> None:
    words = ["method=jaderberg", "speed_up=5", *SMALL, *CHEAP, f"output={tmp_path}", "method.finetune.epochs=0"]
    metrics = execute.run(words).metrics
    assert metrics["best/top1"] == metrics["final/top1"] == metrics["decomposed/top1"]
