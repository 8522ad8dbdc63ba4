"""LR-S2's ranks against equation S.2 as it stands, the released code's walk, and brute force over kappa."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.core.plan import Edit
from paredown.core.recipe import Recipe
from paredown.core.target import Goal, Target
from paredown.cost import count
from paredown.experiment.prepare import prepare
from paredown.methods.low_rank.lr_s2 import LRS2, decompose, ranks_at
from paredown.run import walk
from paredown.surgery.factorise import convolutions
from paredown.surgery.rank_budget import DesignCost, least, uniform

SMALL = ["dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.1", "recipe.epochs=1", "tracking=off"]
QUIET = ["latency.seconds=0.02", "trainer.progress=false"]


def dense() -> Network:
    torch.manual_seed(0)
    return blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 16, 16))


def spectra(network: Network) -> dict[str, np.ndarray]:
    """Of the matrix (filters * rows, channels * columns)."""
    found = {}
    for name, conv in convolutions(network.module, "auto").items():
        n, c, kh, kw = conv.weight.shape
        flat = conv.weight.detach().double().numpy().transpose(0, 2, 1, 3).reshape(n * kh, c * kw)
        found[name] = np.linalg.svd(flat)[1]
    return found


def macs_per_rank(network: Network) -> dict[str, int]:
    """height * width of the output * (n kh + c kw stride), for 3 x 3 kernels."""
    layers = {layer.name: layer for layer in count(network.module, network.input_shape).layers}
    return {
        name: layers[name].output_shape[1] * layers[name].output_shape[2] * 3 * (n + c * conv.stride[0])
        for name, conv in convolutions(network.module, "auto").items()
        for n, c in [conv.weight.shape[:2]]
    }


def test_each_rank_is_the_least_at_which_the_inequality_holds() -> None:
    network = dense()
    cost, s = macs_per_rank(network), spectra(network)
    worth = {name: torch.from_numpy(s[name] ** 2) / cost[name] for name in s}
    for kappa in (1e-6, 1e-5, 1e-4):  # lambda = kappa, mu = 2
        found = ranks_at(worth, kappa)
        for name, rank in found.items():
            tail = [*(s[name] ** 2), 0.0]
            holds = [kappa * cost[name] * (r + 1) - kappa * cost[name] * r - tail[r] >= 0 for r in range(len(tail))]
            assert rank == max(1, holds.index(True))
    assert set(ranks_at(worth, 1.0).values()) == {1}


def code_walks(worth: dict[str, np.ndarray], kappa: float) -> dict[str, int]:
    """As the released code does: one sorted list of all values, smallest first, up to the first layer of rank 1."""
    ranks = {name: len(values) for name, values in worth.items()}
    for value, name in sorted((value, name) for name, values in worth.items() for value in values):
        if value > kappa or ranks[name] == 1:
            break
        ranks[name] -= 1
    return ranks


@pytest.mark.parametrize("kappa", [1e-7, 1e-6, 1e-5, 1e-4, 1.0])
def test_the_legacy_cost_is_the_codes_walk(kappa) -> None:
    network = dense()
    before = {layer.name: layer.macs for layer in count(network.module, network.input_shape).layers}
    worth = {name: s**2 / before[name] for name, s in spectra(network).items()}
    ours = ranks_at({name: torch.from_numpy(values) for name, values in worth.items()}, kappa, legacy_cost=True)
    assert ours == code_walks(worth, kappa)


def test_kappa_for_a_limit_is_the_least_of_all() -> None:
    network = dense()
    prices, cost = DesignCost(network), macs_per_rank(network)
    assert {name: prices.per_rank(name, "horizontal_first") for name in cost} == cost
    worth = {name: torch.from_numpy(s**2) / cost[name] for name, s in spectra(network).items()}

    def total(kappa: float) -> int:
        return prices.total(prices.cheaper(uniform(ranks_at(worth, kappa), "horizontal_first")))

    everywhere = np.geomspace(1e-9, 1, 3000).tolist()
    for speed_up in (1.1, 2, 5):
        limit = prices.dense / speed_up
        kappa = least(worth.values(), lambda at, limit=limit: total(at) <= limit)
        assert total(kappa) <= limit
        assert all(total(at) > limit for at in everywhere if at < 0.9 * kappa)
        assert total(kappa) >= total(min(at for at in everywhere if total(at) <= limit))
    assert least(worth.values(), lambda at: False) is None


def test_the_legacy_cost_may_stop_before_a_target() -> None:
    network = dense()
    context, names = Context(None, torch.device("cpu"), 0), list(convolutions(network.module, "auto"))
    with pytest.raises(UserError, match=r"speed_up=9 is out of reach with method\.legacy_cost=true"):
        decompose(network, context, "horizontal_first", names, True, Goal("speed_up", 9))


@pytest.mark.parametrize(
    ("more", "metric"),
    [
        (["speed_up=2"], "cost/speed_up"),
        (["sparsity=0.5"], "cost/sparsity"),
        (["speed_up=1.5", "method.family=in_group"], "cost/speed_up"),
    ],
)
def test_targets_are_reached_and_hardly_passed(more, metric, tmp_path: Path) -> None:
    words = ["method=lr_s2", *SMALL, *QUIET, f"output={tmp_path}", *more]
    result, wanted = walk.run(words), float(more[0].split("=")[1])
    assert wanted <= result.metrics[metric] < 1.05 * wanted
    notes = prepare(compose(words)).outcomes()[-1].notes
    assert notes["kappa"] > 0 and {branch["groups"] for (branch,) in notes["designs"].values()} == {1}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], r"lr_s2 takes its ranks from one of .*method\.kappa=, got none"),
        (["method.kappa=1e-5", "speed_up=2"], r"got speed_up=2 and method\.kappa=1e-05"),
        (["method.kappa=0"], r"method\.kappa=0.* \(above 0, or null\)"),
        (["method.family=out_group"], r"method\.family='out_group'"),
        (["method.kappa=1e-5", "method.select=most"], r"method\.select='most'"),
        (["speed_up=1000"], "speed_up=1000 is out of reach: rank 1 everywhere gives speed_up=1"),
        (["method.finetune={epochs:0,learning_rate:0.1}", "method.kappa=1"], "nothing is finetuned"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(words, says, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says) as error:
        prepare(compose(["method=lr_s2", *SMALL, *QUIET, f"output={tmp_path}", *words])).steps  # noqa: B018
    assert "\n" not in str(error.value)


def test_edits_are_plain_data() -> None:
    edit = LRS2(legacy_cost=True).plan(Target("sparsity", 0.5), dense(), Recipe(epochs=1))[1]
    assert isinstance(edit, Edit)
    assert edit.arguments["goal"] == Goal("sparsity", 0.5) and len(edit.arguments["names"]) == 6
