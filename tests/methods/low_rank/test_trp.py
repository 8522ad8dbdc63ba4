"""TRP as a method: its plan, the decomposition at a threshold or for a target, what it reports and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import stage_key
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target
from paredown.cost import count
from paredown.experiment.prepare import prepare
from paredown.layers.factorised.forms import Factorisation, full_rank, kernel_shape, matrices, weighted
from paredown.layers.factorised.pair import Pair
from paredown.methods.low_rank.pairs import truncate
from paredown.methods.low_rank.papers import FORMS
from paredown.methods.low_rank.trp import TRP
from paredown.run import walk
from paredown.surgery.factorise import convolutions
from paredown.surgery.rank_budget import DesignCost, uniform
from paredown.training.hooks.rank_truncation import TrainedRankPruning

RECIPE = Recipe(epochs=2)


class Images:
    """Stands for a data module: a few random test images."""

    sizes = {"test": 4}  # noqa: RUF012

    def eval_loader(self, split: str, batch_size: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        yield torch.randn(4, 3, 32, 32), torch.arange(4)


CONTEXT = Context(Images(), torch.device("cpu"), 0)


def matrix(weight: Tensor, factorisation: Factorisation) -> Tensor:
    return matrices(weight, factorisation)[0]


def dense(depth: int = 8, **arguments: object) -> Network:
    torch.manual_seed(0)
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": depth, **arguments}
    return blueprint.create(architecture, (3, 32, 32))


def parts(method: TRP, target: Target | None = None, network: Network | None = None) -> tuple[Fit, Edit]:
    fit, edit = method.plan(target, network or dense(), RECIPE)
    assert isinstance(fit, Fit) and isinstance(edit, Edit)
    return fit, edit


def run(edit: Edit, network: Network) -> dict[str, Any]:
    notes = edit.function(network, CONTEXT, **edit.arguments)
    assert notes is not None
    return dict(notes)


def test_the_plan_is_a_fit_with_truncation_then_the_decomposition() -> None:
    fit, edit = parts(TRP("channel", period=7, energy=0.2, decay=1e-3, truncate=False, threshold=0.3))
    names = ("layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv2", "layer3.0.conv2")
    assert fit == Fit("train", RECIPE, (TrainedRankPruning("in_group", names, 0.2, 1e-3, 7, False),))
    assert edit.function is truncate
    goal = {"goal": Goal("threshold", 0.3), "criterion": "threshold"}
    assert edit.arguments == {"factorisation": "in_group", "names": list(names)} | goal
    stages = TRP(finetune=RecipeOverrides(epochs=5, learning_rate=0.01)).plan(None, dense(), RECIPE)
    assert stages[2:] == [Fit("finetune", Recipe(epochs=5, learning_rate=0.01))]
    assert len(TRP(finetune=RecipeOverrides(epochs=0)).plan(None, dense(), RECIPE)) == 2


@pytest.mark.parametrize(("form", "macs"), [("channel", 13_549_568), ("spatial", 21_938_176)])
def test_the_papers_choice_of_layers_at_a_quarter_of_the_full_ranks(form: Any, macs: int) -> None:
    network = dense(20)
    factorisation = FORMS[form]
    highest = {
        n: full_rank(kernel_shape(conv), factorisation) for n, conv in convolutions(network.module, "trp").items()
    }
    quarter = {name: max(1, rank // 4) for name, rank in highest.items()}
    cost = DesignCost(network).total(uniform(quarter, factorisation))
    assert len(quarter) == 16 and cost == macs + 640  # and the linear layer


@pytest.mark.parametrize("form", ["channel", "spatial"])
def test_what_lies_below_the_threshold_goes_and_nothing_else(form: Any) -> None:
    network = dense()
    weights = {name: conv.weight.detach().clone() for name, conv in convolutions(network.module, "trp").items()}
    expected = copy.deepcopy(network.module)
    _, edit = parts(TRP(form, threshold=1.3))
    notes = run(edit, network)
    for name, weight in weights.items():
        left, s, right = np.linalg.svd(matrix(weight, FORMS[form]).double().numpy(), full_matrices=False)
        rank = int((s > 1.3).sum())
        assert 1 <= rank < len(s)
        assert notes["ranks"][name] == rank and notes["full_ranks"][name] == len(s)
        kept = (left[:, :rank] * s[:rank]) @ right[:rank]
        if form == "spatial":
            n, c, kh, kw = weight.shape
            kept = kept.reshape(c, kh, n, kw).transpose(2, 0, 1, 3)
        with torch.no_grad():
            expected.get_submodule(name).weight.copy_(torch.tensor(kept).reshape(weight.shape))
        design = {"factorisation": FORMS[form], "groups": 1, "rank": rank}
        assert network.blueprint[name] == {"kind": "pair", **design, "bias": False}
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(network.module.eval()(x), expected.eval()(x), rtol=1e-4, atol=1e-4)
    pairs = [layer for layer in network.module.modules() if isinstance(layer, Pair)]
    norms = [[float(layer.weight.norm()) for layer in weighted(pair.body)] for pair in pairs]
    balance = [first / second for first, second in norms]
    assert balance == pytest.approx([1] * 4, rel=1e-5)  # both factors hold the root of the singular values


def test_a_bias_goes_with_the_second_convolution() -> None:
    network = dense()
    network.module.layer1[0].conv1 = torch.nn.Conv2d(16, 16, 3, padding=1)
    conv = copy.deepcopy(network.module.layer1[0].conv1)
    truncate(network, CONTEXT, "in_group", ["layer1.0.conv1"], Goal("threshold", 0.0), "threshold")
    x = torch.randn(2, 16, 5, 5)
    torch.testing.assert_close(network.module.layer1[0].conv1(x), conv(x), rtol=1e-4, atol=1e-5)


def test_a_layer_of_small_weights_keeps_one_singular_value(caplog: pytest.LogCaptureFixture) -> None:
    network = dense()
    notes = run(parts(TRP(threshold=1e3))[1], network)
    assert set(notes["ranks"].values()) == {1}
    assert not caplog.records
    run(parts(TRP(threshold=0.0))[1], dense())
    assert "decompose: the low-rank network needs 1." in caplog.text  # larger than the dense one: done, but said


@pytest.mark.parametrize("form", ["channel", "spatial"])
@pytest.mark.parametrize("target", [Target("sparsity", 0.7), Target("speed_up", 3)])
def test_a_target_is_met_by_the_least_threshold(form: Any, target: Target) -> None:
    network = dense()
    before = count(network.module, network.input_shape)
    _, edit = parts(TRP(form, select="all"), target, network)
    assert edit.arguments["goal"] == Goal.of(target)
    start = copy.deepcopy(network)
    notes = run(edit, network)

    def reached(found: Network) -> float:
        after = count(found.module, found.input_shape)
        return before.macs / after.macs if target.quantity == "speed_up" else 1 - after.weights / before.weights

    assert target.value <= reached(network) < target.value * 1.05
    looser = copy.deepcopy(start)
    below = [matrix(conv.weight.detach().double(), FORMS[form]) for conv in convolutions(start.module).values()]
    values = torch.cat([torch.linalg.svdvals(m) for m in below])
    last = float(values[values < notes["threshold"]].max())  # the last one that was dropped
    truncate(looser, CONTEXT, FORMS[form], list(notes["ranks"]), Goal("threshold", last * (1 - 1e-9)), "threshold")
    assert reached(looser) < target.value


def test_thresholds_and_targets_share_one_training() -> None:
    plans = [parts(TRP()), parts(TRP(threshold=0.1)), parts(TRP(), Target("sparsity", 0.5)), parts(TRP(decay=1e-3))]
    first, threshold, target, decay = ([stage_key(stage, "", 0, "") for stage in plan] for plan in plans)
    assert first[0] == threshold[0] == target[0] != decay[0]
    assert len({first[1], threshold[1], target[1]}) == 3


@pytest.mark.parametrize(
    ("values", "target", "words"),
    [
        ({"energy": 1.0}, None, r"method\.energy=1.* \(in \[0, 1\)"),
        ({"period": 0, "decay": -1}, None, r"method\.period=0 \(at least 1\); method\.decay=-1 \(at least 0\)"),
        ({"threshold": -0.1}, None, r"method\.threshold=-0\.1 \(at least 0, or null\)"),
        ({"threshold": 0.1}, Target("speed_up", 2), r"speed_up=2 finds the threshold itself.*method\.threshold=0\.1"),
        ({"form": "channel"}, Target("sparsity", 0.9), r"sparsity=0\.9 is out of reach: rank 1 everywhere"),
    ],
)
def test_mistakes_are_one_line(values: dict[str, Any], target: Target | None, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        TRP(**values).plan(target, dense(), RECIPE)
    assert "\n" not in str(error.value)


def test_a_network_without_such_layers_is_refused() -> None:
    network = blueprint.create({"_target_": "paredown.models.cifar.mobilenet.mobilenet_v2_cifar"}, (3, 32, 32))
    with pytest.raises(UserError, match=r"no convolution to factorise"):
        TRP().plan(None, network, RECIPE)


def words(output: Path, *more: str) -> list[str]:
    small = ["method=trp", "dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.2"]
    return [*small, "latency.seconds=0.02", "tracking=off", "trainer.progress=false", f"output={output}", *more]


def test_an_experiment_tells_its_ranks_and_draws_them(tmp_path: Path) -> None:
    more = ["recipe.epochs=3", "method.period=1", "method.finetune.epochs=2", "method.finetune.learning_rate=0.01"]
    arguments = words(tmp_path, *more)
    metrics = walk.run(arguments).metrics
    experiment = prepare(compose(arguments))
    train, edit, tuned = experiment.outcomes()
    assert [outcome.stage.name for outcome in (train, edit, tuned)] == ["train", "decompose", "finetune"]
    assert metrics["threshold"] == 0.05 and metrics["rank/full"] == 48 + 48 + 96 + 192
    pairs = [layer for layer in tuned.network().module.modules() if isinstance(layer, Pair)]
    assert metrics["rank/sum"] == sum(pair.rank for pair in pairs) == sum(edit.notes["ranks"].values())
    assert metrics["base/top1"] == pytest.approx(train.history[-1]["test/top1"], abs=1)  # in fp32, perhaps of bf16
    assert metrics["decomposed/top1"] == edit.notes["decomposed"]["top1"]
    assert metrics["gain/base_top1"] == metrics["final/top1"] - metrics["base/top1"]
    assert tuned.history[0]["learning_rate"] == 0.01
    rows = train.history
    assert all(row["penalty/nuclear_norm"] > 0 and row["rank/truncated"] < 384 for row in rows)
    figures = experiment.method.figures(experiment.outcomes())
    assert set(figures) == {"ranks", "singular_values", "rank_truncated", "nuclear_norm_sum"}
    curve = figures["nuclear_norm_sum"].data[0]
    assert list(curve.x) == [1, 2, 3] and list(curve.y) == [row["nuclear_norm/sum"] for row in rows]


@pytest.mark.slow
def test_two_ranks_agree(tmp_path: Path) -> None:
    more = ["recipe.epochs=6", "dataset.fraction=1.0", "method.period=1", "trainer.accelerator=cpu"]
    one = walk.run(words(tmp_path / "one", *more)).metrics
    two = walk.run(words(tmp_path / "two", *more, "trainer=ddp", "trainer.progress=false")).metrics
    assert two["rank/full"] == one["rank/full"]
    assert two["rank/sum"] == pytest.approx(one["rank/sum"], rel=0.1)  # batch norm sees half a batch
    assert two["final/top1"] == pytest.approx(one["final/top1"], abs=6)
