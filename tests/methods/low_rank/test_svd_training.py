"""SVD training as a method: its plan, what stages share, its targets, its line search, what it says and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

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
from paredown.layers.factorised.low_rank import LowRankConv2d, low_rank_layers
from paredown.methods.low_rank import svd_training
from paredown.methods.low_rank.svd_training import SVDTraining, factorise, prune
from paredown.published import load
from paredown.run import walk
from paredown.surgery.factorise import convolutions
from paredown.training import fit as fitting

RECIPE = Recipe(epochs=8, milestones=(0.5,))
CONTEXT = Context(None, torch.device("cpu"), 0)
SMALL = ["dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.1", "recipe.epochs=1", "tracking=off"]
QUIET = ["latency.seconds=0.02", "trainer.progress=false"]


def dense() -> Network:
    torch.manual_seed(0)
    return blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 16, 16))


def names(method: SVDTraining, target: Target | None = None) -> list[str]:
    return [stage.name for stage in method.plan(target, dense(), RECIPE)]


def test_the_stages() -> None:
    assert names(SVDTraining()) == ["decompose", "full_rank", "sparsify", "prune", "finetune"]
    assert names(SVDTraining(init="pretrained"))[:2] == ["train", "decompose"]
    for without in (SVDTraining(regularizer="none"), SVDTraining(decay=0)):
        assert names(without) == ["decompose", "full_rank", "prune", "finetune"]


def test_penalties_and_recipes_of_the_fits() -> None:
    method = SVDTraining(
        orthogonality=5,
        decay=0.1,
        regularizer="l1",
        finetune=RecipeOverrides(3, 0.01, (0.9,)),
        pretrain=RecipeOverrides(epochs=2),
    )
    full_rank, sparsify, finetune = (stage for stage in method.plan(None, dense(), RECIPE) if isinstance(stage, Fit))
    assert full_rank.recipe == RECIPE.changed(RecipeOverrides(epochs=2)) and sparsify.recipe == RECIPE
    assert (finetune.recipe.epochs, finetune.recipe.learning_rate, finetune.recipe.milestones) == (3, 0.01, (0.9,))
    assert [hook.decay for hook in full_rank.hooks] == [5] and [hook.decay for hook in sparsify.hooks] == [5, 0.1]
    assert sparsify.hooks[1].kind == "l1" and finetune.hooks == full_rank.hooks
    *_, last = SVDTraining(keep_orthogonality=False).plan(None, dense(), RECIPE)
    assert [hook.decay for hook in last.hooks] == [0]


@pytest.mark.parametrize("factorisation", ["in_group", "vertical_first"])
def test_from_a_dense_network_nothing_changes_and_at_random_everything_does(factorisation) -> None:
    x = torch.randn(2, 3, 16, 16)
    for random in (False, True):
        network = dense()
        before = network.module.eval()(x)
        factorise(network, CONTEXT, factorisation, list(convolutions(network.module)), random)
        after = network.module.eval()(x)
        assert torch.allclose(after, before, atol=1e-4) is not random
        assert all(isinstance(layer, LowRankConv2d) for layer in low_rank_layers(network.module).values())
        assert len(network.blueprint) == len(low_rank_layers(network.module)) == 9


def factorised(factorisation: str = "in_group") -> Network:
    network = dense()
    factorise(network, CONTEXT, factorisation, list(convolutions(network.module)), random=False)
    return network


@pytest.mark.parametrize("factorisation", ["in_group", "vertical_first"])
def test_after_pruning_each_layer_is_its_truncated_svd(factorisation) -> None:
    network, before = factorised(factorisation), dense()
    notes = prune(network, CONTEXT, Goal("energy", 0.2), "learned", fallback_dense=False)
    for name, layer in low_rank_layers(network.module).items():
        weight = svd_training.decompose(
            before.module.get_submodule(name), factorisation, notes["ranks"][name]
        ).effective_weight()
        torch.testing.assert_close(layer.effective_weight(), weight, rtol=1e-4, atol=1e-5)
        rank = notes["ranks"][name]
        assert network.blueprint[name] == {"kind": "low_rank", "factorisation": factorisation, "rank": rank}
    assert notes["energy"] == 0.2 and notes["search"] == []


def test_the_exact_basis_prunes_true_singular_values_not_learned_ones() -> None:
    ranks = {}
    for basis in ("learned", "exact"):
        network = factorised()
        with torch.no_grad():
            for layer in low_rank_layers(network.module).values():  # s of no meaning: all ones, the sizes within U
                layer.U.mul_(layer.s)
                layer.s.fill_(1)
        ranks[basis] = sum(prune(network, CONTEXT, Goal("energy", 0.3), basis, False)["ranks"].values())
    straight = sum(prune(factorised(), CONTEXT, Goal("energy", 0.3), "learned", False)["ranks"].values())
    assert ranks["exact"] == straight < ranks["learned"]


def test_with_the_fallback_dear_layers_are_dense_again_and_compute_the_same(tmp_path: Path) -> None:
    network, x = factorised("vertical_first"), torch.randn(2, 3, 16, 16)
    before = network.module.eval()(x)
    prune(network, CONTEXT, Goal("energy", 0.0), "learned", fallback_dense=True)
    assert not network.blueprint and not low_rank_layers(network.module)
    torch.testing.assert_close(network.module.eval()(x), before, rtol=1e-4, atol=1e-5)
    blueprint.save(network, tmp_path)
    assert torch.equal(blueprint.load(tmp_path)(x), network.module(x))


def test_a_network_larger_than_the_dense_one_is_allowed_and_said(caplog: pytest.LogCaptureFixture) -> None:
    prune(factorised("vertical_first"), CONTEXT, Goal("energy", 0.0), "learned", fallback_dense=False)
    assert "needs 1.9" in caplog.text and "the MACs of the dense one: take more energy" in caplog.text


def run(output: Path, *more: str, method: str = "svd_training") -> walk.Result:
    return walk.run([f"method={method}", *SMALL, *QUIET, f"output={output}", *more])


def test_only_what_changed_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fits: list[str] = []
    fit = fitting.fit

    def counting(network, stage, *rest):
        fits.append(stage.name)
        return fit(network, stage, *rest)

    monkeypatch.setattr(fitting, "fit", counting)
    run(tmp_path, "method.energy=0.1")
    assert fits == ["full_rank", "sparsify", "finetune"]
    run(tmp_path, "method.energy=0.3")
    assert fits[3:] == ["finetune"]
    run(tmp_path, "method.energy=0.3", "method.decay=0.1")
    assert fits[4:] == ["sparsify", "finetune"]
    run(tmp_path, "speed_up=2", "method.decay=0.1")
    assert fits[6:] == ["finetune"]
    run(tmp_path, method="dense")
    run(tmp_path, "method.energy=0.3", "method.init=pretrained", "method.regularizer=none")
    assert fits[7:] == ["train", "full_rank", "finetune"]  # the dense network's own training is shared too


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], walk.Result]:
    words = ["recipe.epochs=6", "dataset.fraction=0.5", "recipe.learning_rate=0.05"]
    output = tmp_path_factory.mktemp("search")
    return [*words, f"output={output}"], run(output, *words)


@pytest.mark.slow
def test_the_line_search_takes_the_largest_energy_before_the_collapse(searched) -> None:
    words, result = searched
    experiment = prepare(compose(["method=svd_training", *SMALL, *QUIET, *words]))
    notes = next(outcome.notes for outcome in experiment.outcomes() if outcome.stage.name == "prune")
    rows = notes["search"]
    held = [row["energy"] for row in rows if rows[0]["top1"] - row["top1"] < 5]
    assert rows[0]["energy"] == 0 and notes["energy"] == max(held) == result.metrics["energy"]
    assert [row["speed_up"] for row in rows] == sorted(row["speed_up"] for row in rows)
    fewer = {name for name, rank in notes["ranks"].items() if rank < notes["full_ranks"][name]}
    assert fewer and result.metrics["rank/sum"] == sum(notes["ranks"].values()) < result.metrics["rank/full"]


def test_the_line_search_has_a_point_near_every_published_energy() -> None:
    table = load()
    printed = [row["energy"] for row in table.loc[table["method"] == "svd_training", "hyperparameters"]]
    assert min(printed) == 2e-8 and max(printed) == 0.61
    for energy in printed:
        near = min(svd_training.CANDIDATES, key=lambda candidate: abs(candidate - energy))
        assert abs(near - energy) <= (0.025 if energy > 0.1 else 0.4 * energy) + 1e-12, energy


def test_its_figures_and_metrics(searched) -> None:
    words, result = searched
    experiment = prepare(compose(["method=svd_training", *SMALL, *QUIET, *words]))
    outcomes = experiment.outcomes()
    figures = experiment.method.figures(outcomes)
    assert list(figures) == ["ranks", "rank_over_training", "singular_values", "energy_search"]
    assert len(figures["ranks"].data[0].x) == 9 and len(figures["rank_over_training"].data[0].x) == 18
    labels = [trace.name for trace in figures["singular_values"].data if trace.visible]
    assert labels == ["decompose", "full_rank", "sparsify", "prune", "finetune"]
    by_name = {outcome.stage.name: outcome.history for outcome in outcomes}
    found = result.metrics
    assert found["base/top1"] == pytest.approx(by_name["full_rank"][-1]["test/top1"], abs=1)  # in fp32
    assert found["gain/base_top1"] == found["final/top1"] - found["base/top1"]
    assert found["best/top1"] == found["base/best_top1"] + found["gain/base_best_top1"]
    penalties = {name for row in by_name["sparsify"] for name in row if name.startswith("penalty/")}
    assert penalties == {"penalty/orthogonality", "penalty/hoyer"}


def test_where_no_images_are_held_out_the_test_images_are_searched_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path, "dataset.validation=0")
    assert "the energy is chosen on the test images" in caplog.text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["method.energy=1"], r"method\.energy=1 \(in \[0, 1\): the fraction of squared"),
        (["method.energy=-0.1"], r"method\.energy=-0\.1 \(in \[0, 1\)"),
        (["method.energy=much"], r"method\.energy"),
        (["method.decay=-1"], r"method\.decay=-1 \(at least 0\)"),
        (["method.orthogonality=-1"], r"method\.orthogonality=-1 \(at least 0\)"),
        (["method.form=diagonal"], r"method\.form='diagonal'.*known: channel, spatial"),
        (["method.regularizer=l2"], r"method\.regularizer='l2'"),
        (["speed_up=2", "method.energy=0.1"], r"speed_up=2 finds the energy itself: leave out method\.energy=0\.1"),
        (["speed_up=1000"], "speed_up=1000 is out of reach: rank 1 everywhere"),
        (["method.finetune.epochs=0"], r"recipe\.epochs=0"),
        (["method.finetune.rate=1"], "unknown key 'rate' in method.finetune"),
        (["model.weights=WEIGHTS"], r"method\.init=random .* method\.init=dense"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(words, says, tmp_path: Path) -> None:
    digits = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "in_channels": 1}
    torch.save(blueprint.build(digits, {}).state_dict(), tmp_path / "w.pt")
    words = [word.replace("WEIGHTS", str(tmp_path / "w.pt")) for word in words]
    with pytest.raises(UserError, match=says) as error:
        prepare(compose(["method=svd_training", *SMALL, *QUIET, f"output={tmp_path}", *words])).steps  # noqa: B018
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("recipe", ["svd_training_paper", "svd_training_code"])
def test_the_published_profiles(recipe: str, tmp_path: Path) -> None:
    experiment = prepare(compose([f"recipe={recipe}", "method=svd_training", "dataset=digits", f"output={tmp_path}"]))
    found = experiment.recipe
    assert (found.epochs, found.batch_size, found.learning_rate) == (164, 100, 0.001)
    assert [round(fraction * 164) for fraction in found.milestones] == [81, 122] and found.gamma == 0.1
    expected = {"svd_training_paper": ("sgd", 5e-4), "svd_training_code": ("adam", 0.0)}
    assert (found.optimizer, found.weight_decay) == expected[recipe]


def test_edits_are_plain_data() -> None:
    decomposed, pruned = (
        stage for stage in SVDTraining().plan(Target("speed_up", 2), dense(), RECIPE) if isinstance(stage, Edit)
    )
    assert pruned.arguments["goal"] == Goal("speed_up", 2) and len(decomposed.arguments["names"]) == 9


@pytest.mark.slow
def test_on_real_images(shared_data: Path, tmp_path: Path) -> None:
    few = [f"dataset.root={shared_data / 'cifar10'}", "dataset.classes=2", "dataset.fraction=0.1", "recipe.epochs=2"]
    words = ["dataset=cifar10", "model.depth=8", "recipe=svd_training_code", "recipe.batch_size=50", *few, *QUIET]
    found = walk.run(["method=svd_training", "speed_up=2", "tracking=off", f"output={tmp_path}", *words]).metrics
    assert found["cost/speed_up"] == pytest.approx(2, rel=0.02) and found["final/top1"] > 60


@pytest.mark.parametrize("target", [Target("sparsity", 0.3), Target("speed_up", 1.3)])
def test_with_the_fallback_a_target_is_still_met(target: Target) -> None:
    """Which layers fall back follows from their MACs, whatever the target limits."""
    network, before = factorised("vertical_first"), count(dense().module, (3, 16, 16))
    prune(network, CONTEXT, Goal.of(target), "learned", fallback_dense=True)
    after = count(network.module, (3, 16, 16))
    found = {"sparsity": 1 - after.weights / before.weights, "speed_up": before.macs / after.macs}[target.quantity]
    assert target.value <= found < 1.1 * target.value
    assert 0 < len(network.blueprint) < 9
