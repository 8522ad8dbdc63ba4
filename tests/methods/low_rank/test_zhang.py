"""Zhang's reconstruction in a whole network: exact where it must be, and nearer than what it improves upon."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.deploy import deploy, prove_equal
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.keys import identified
from paredown.core.network import Network
from paredown.core.plan import Edit, Fit
from paredown.core.recipe import Recipe, RecipeOverrides
from paredown.core.target import Goal, Target
from paredown.cost import count
from paredown.experiment.prepare import prepare
from paredown.methods.low_rank.pairs import truncate
from paredown.methods.low_rank.zhang import Zhang, approximate

RECIPE = Recipe(epochs=3)
EVERY = 64  # all positions of an 8 x 8 map, of all images: what is fitted is what is measured


def give_statistics(module: nn.Module) -> None:
    """Statistics and weights of their own for the batch norms, so that folding one wrongly shows."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 1.5)
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_(-0.5, 0.3)


def resnet(block: str = "basic") -> Network:
    torch.manual_seed(0)
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "block": block}
    made = blueprint.create(architecture, (3, 8, 8))
    made.module.double().eval()
    give_statistics(made.module)
    return made


def two_layers(dead: bool = False) -> nn.Sequential:
    """Two convolutions with biases, each with batch norm and ReLU, and a mean over positions; `dead`: the first batch
    norm multiplies two channels by 0."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()]
    layers += [nn.Conv2d(12, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU()]
    made = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    give_statistics(made)
    for conv in (made[0], made[3]):
        conv.bias.data.normal_()
    if dead:
        made[1].weight.data[[1, 5]] = 0
    return made


@pytest.fixture
def chain() -> Network:
    return Network(two_layers(), {}, (3, 8, 8))


def decompose(network: Network, context: Context, ranks: dict[str, int], **settings: bool) -> dict:
    settings = {"relu": True, "asymmetric": True} | settings
    return approximate(network, context, list(ranks), Goal("ranks", ranks), **settings, images=96, positions=EVERY)


def rows(maps: Tensor) -> Tensor:
    return maps.detach().permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize("dead", [False, True])
@pytest.mark.parametrize("rank", [2, 6, 12])
def test_linear_gives_the_pca_of_the_responses_behind_the_batch_norm(
    rank: int, dead: bool, chain: Network, exact: Context
) -> None:
    chain.module = two_layers(dead)
    behind, x = chain.module[:2], exact.data.images
    y = rows(behind(x)).numpy()
    notes = decompose(chain, exact, {"0": rank}, relu=False)
    pca = PCA(rank).fit(y)
    torch.testing.assert_close(
        rows(chain.module[:2](x)), torch.from_numpy(pca.inverse_transform(pca.transform(y))), atol=1e-7, rtol=1e-6
    )
    lost = 1 - pca.explained_variance_ratio_.sum()
    assert notes["errors"]["reconstructed"]["0"] == pytest.approx(lost, abs=1e-9)
    design = {"factorisation": "in_group", "groups": 1, "rank": rank}
    assert chain.blueprint == {"0": {"kind": "pair", **design, "bias": True}}


@pytest.mark.parametrize(
    ("block", "relu", "asymmetric"), [("basic", True, True), ("bottleneck", True, False), ("bottleneck", False, True)]
)
def test_at_full_rank_the_network_stays_what_it_was(block: str, relu: bool, asymmetric: bool, exact: Context) -> None:
    made, x = resnet(block), exact.data.images
    before = made.module(x).detach()
    ranks = {
        name: min(conv.out_channels, conv.weight[0].numel())
        for name, conv in made.module.named_modules()
        if isinstance(conv, nn.Conv2d)
    }
    decompose(made, exact, ranks, relu=relu, asymmetric=asymmetric)
    assert float((made.module(x) - before).square().mean().sqrt() / before.std()) < 0.02  # the regression's cutoff


def chain_error(made: Network, context: Context) -> float:
    """How far the last ReLU's outputs are from those of the chain as it was, on the images it was fitted to."""
    outputs = [module[:6](context.data.images) for module in (made.module, two_layers())]
    return float((outputs[0] - outputs[1]).square().sum())


def test_nonlinear_is_nearer_than_linear_and_both_than_the_weights_alone(chain: Network, exact: Context) -> None:
    ranks, made = {"0": 3, "3": 3}, [copy.deepcopy(chain) for _ in range(3)]
    decompose(made[0], exact, ranks)
    decompose(made[1], exact, ranks, relu=False)
    truncate(made[2], exact, "in_group", list(ranks), Goal("ranks", ranks))
    nonlinear, linear, weights = (chain_error(network, exact) for network in made)
    assert nonlinear < 0.9 * linear < linear < 0.9 * weights


@pytest.mark.parametrize("relu", [False, True])
def test_asymmetric_is_nearer_than_symmetric(relu: bool, chain: Network, exact: Context) -> None:
    ranks, made = {"0": 3, "3": 6}, [copy.deepcopy(chain) for _ in range(2)]
    for network, asymmetric in zip(made, (True, False), strict=True):
        decompose(network, exact, ranks, relu=relu, asymmetric=asymmetric)
    assert chain_error(made[0], exact) < 0.95 * chain_error(made[1], exact)
    for one, other in zip(*(network.module[0].parameters() for network in made), strict=True):
        assert torch.equal(one, other)  # the first layer's inputs are the same


def test_a_layer_before_an_addition_is_fitted_linearly(exact: Context) -> None:
    name = "layer1.0.conv2"
    made = [resnet() for _ in range(2)]
    for network, relu in zip(made, (True, False), strict=True):
        decompose(network, exact, {name: 4}, relu=relu)
    weights = [network.module.get_submodule(name).body[1].weight for network in made]
    assert torch.equal(*weights)
    inside = [resnet() for _ in range(2)]
    for network, relu in zip(inside, (True, False), strict=True):
        decompose(network, exact, {"layer1.0.conv1": 4}, relu=relu)
    weights = [network.module.get_submodule("layer1.0.conv1").body[1].weight for network in inside]
    assert not torch.allclose(*weights)


def test_svd_energy_is_the_truncated_svd_of_the_weights(exact: Context) -> None:
    made = resnet()
    _, edit, _ = Zhang(mode="svd_energy", energy=0.3).plan(None, made, RECIPE)
    weights = {name: made.module.get_submodule(name).weight.detach().flatten(1) for name in edit.arguments["names"]}
    notes = edit.function(made, exact, **edit.arguments)
    for name, weight in weights.items():
        pair, rank = made.module.get_submodule(name), notes["ranks"][name]
        left, s, right = torch.linalg.svd(weight, full_matrices=False)
        product = pair.body[1].weight.flatten(1) @ pair.body[0].weight.flatten(1)
        torch.testing.assert_close(product.detach(), (left[:, :rank] * s[:rank]) @ right[:rank])
        assert pair.body[1].bias is None
        lost = [float(s[r:].square().sum() / s.square().sum()) for r in (rank, rank - 1)]
        assert lost[0] <= 0.3 < lost[1]


@pytest.mark.parametrize("target", [Target("speed_up", 3), Target("sparsity", 0.7)])
def test_a_target_is_reached_and_hardly_passed(target: Target, exact: Context) -> None:
    made = resnet()
    before = count(made.module, made.input_shape)
    _, edit, _ = Zhang(images=32, positions=9).plan(target, made, RECIPE)
    notes = edit.function(made, exact, **edit.arguments)
    after = count(made.module, made.input_shape)
    found = {"speed_up": before.macs / after.macs, "sparsity": 1 - after.weights / before.weights}[target.quantity]
    assert target.value <= found < target.value * 1.02
    assert prove_equal(made.module, deploy(made.module), made.input_shape) < 1e-9
    assert json.loads(json.dumps(notes)) == notes


def test_energy_is_the_variance_that_every_layer_loses(exact: Context) -> None:
    made = resnet()
    settings = {"relu": False, "asymmetric": False, "images": 96, "positions": EVERY}
    notes = approximate(made, exact, ["conv", "layer3.0.conv1"], Goal("energy", 0.1), **settings)
    assert all(error <= 0.1 for error in notes["errors"]["reconstructed"].values())
    made = resnet()
    less = {name: rank - 1 for name, rank in notes["ranks"].items()}
    notes = approximate(made, exact, list(less), Goal("ranks", less), **settings)
    assert all(error > 0.1 for error in notes["errors"]["reconstructed"].values())


def test_the_plan() -> None:
    made = resnet()
    train, edit, tune = Zhang().plan(Target("speed_up", 2), made, RECIPE)
    assert train == Fit("train", RECIPE) and tune == Fit("finetune", Recipe(epochs=4, milestones=(0.5,)))
    assert isinstance(edit, Edit) and identified(edit.arguments)
    assert edit.arguments["goal"] == Goal("speed_up", 2) and edit.arguments["names"][0] == "conv"
    assert len(Zhang(energy=0.1, finetune=RecipeOverrides(epochs=0)).plan(None, made, RECIPE)) == 2
    (_, some, _) = Zhang(ranks={"layer2.0.conv1": 5}).plan(None, made, RECIPE)
    assert some.arguments["names"] == ["layer2.0.conv1"]


def test_the_hyperparameters_of_the_yaml_are_the_defaults_and_ranks_can_be_typed(tmp_path: Path) -> None:
    words = ["method=zhang", "dataset=digits", "model=resnet20", "model.depth=8", "tracking=off", f"output={tmp_path}"]
    assert prepare(compose(words)).method == Zhang()
    method = prepare(compose([*words, "method.ranks={layer1.0.conv1: 5, conv: 2}"])).method
    assert method == Zhang(ranks={"layer1.0.conv1": 5, "conv": 2})


@pytest.mark.parametrize(
    ("settings", "target", "words"),
    [
        ({}, None, r"zhang takes its ranks from one of sparsity=, .*, got none"),
        ({}, Target("speed_up", 1000), r"speed_up=1000 is out of reach: rank 1 everywhere gives"),
        ({"ranks": {"conv": 17}}, None, "conv has ranks from 1 to 16, not 17"),
    ],
)
def test_mistakes_are_one_line(settings: dict, target: Target | None, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        Zhang(**settings).plan(target, resnet(), RECIPE)
    assert "\n" not in str(error.value)
