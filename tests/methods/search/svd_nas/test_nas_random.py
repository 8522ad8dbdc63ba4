"""Random designs of SVD-NAS's space: their probabilities against enumeration, their cost, what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from paredown.core import blueprint
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.core.hooks import Context
from paredown.core.network import Network
from paredown.cost import count
from paredown.experiment.prepare import prepare
from paredown.layers.factorised.forms import Branch
from paredown.layers.mixed_op import mixed_ops
from paredown.methods.search.svd_nas.random import draw, tilted
from paredown.methods.search.svd_nas.space import open_space, restore
from paredown.run import walk
from paredown.surgery.factorise import convolutions, decompose

SPACE = {"gamma": (0.3, 0.9), "step": 0.2, "include_end": True, "merge": False, "proxy": None}
SMALL = ["method=svd_nas", "dataset=digits", "model=resnet20", "model.depth=8", "debug=fast", "tracking=off"]
QUICK = ["latency.seconds=0.02", "trainer.progress=false", "method.search.by=random"]


def test_probabilities_have_the_cost_and_the_most_entropy() -> None:
    costs = [torch.tensor(c, dtype=torch.float64) for c in ([0.1, 0.25, 0.3], [0.05, 0.2], [0.1, 0.15, 0.2, 0.3])]
    shares = tilted(costs, 0.45)
    designs = list(itertools.product(*(range(len(c)) for c in costs)))
    chances = torch.stack([torch.stack([p[i] for p, i in zip(shares, d, strict=True)]).prod() for d in designs])
    prices = torch.stack([torch.stack([c[i] for c, i in zip(costs, d, strict=True)]).sum() for d in designs])
    assert float(chances.sum()) == pytest.approx(1) and float(chances @ prices) == pytest.approx(0.45)
    # most entropy at a given mean: the logarithm of a design's chance is a straight line over its price
    assert float(torch.corrcoef(torch.stack([prices, chances.log()]))[0, 1]) == pytest.approx(-1)
    assert [int(p.argmax()) for p in tilted(costs, 0.25)] == [0, 0, 0]  # what costs the least is all there is


def drawn(speed_up: float, seed: int) -> tuple[Network, dict[str, object], list[int]]:
    torch.manual_seed(0)
    network = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 16, 16))
    network.module.eval()
    context = Context(None, torch.device("cpu"), seed)
    open_space(network, context, list(convolutions(network.module, "auto")), **SPACE)
    notes = draw(network, context, speed_up, 0)
    return network, notes, [int(layer.choice) for layer in mixed_ops(network.module).values()]


@pytest.mark.parametrize("speed_up", [1.2, 2.0])
def test_a_design_costs_what_was_asked_for(speed_up: float) -> None:
    network, notes, choice = drawn(speed_up, 0)
    assert drawn(speed_up, 0)[2] == choice != drawn(speed_up, 1)[2]
    layers = mixed_ops(network.module)
    dense = count(network.module, (3, 16, 16)).macs + sum(
        layer.points[-1][3] - layer.points[index][3] for layer, index in zip(layers.values(), choice, strict=True)
    )
    designs = {name: [Branch(**branch) for branch in layer.design()] for name, layer in layers.items()}
    for name in designs:
        restore(network, name)
    decompose(network, {name: design for name, design in designs.items() if design})
    reached = dense / count(network.module, (3, 16, 16)).macs
    assert reached == pytest.approx(speed_up, rel=0.01) and notes["speed_up"] == pytest.approx(reached)


def test_what_is_drawn_shares_the_space_with_the_search(tmp_path: Path) -> None:
    random = [*SMALL, *QUICK, f"output={tmp_path}", "speed_up=1.6"]
    words = (random, [*random, "method.search.number=1"], [*SMALL, f"output={tmp_path}"])
    first, other, searched_for = ([step.key for step in prepare(compose(more)).steps] for more in words)
    assert first[:2] == other[:2] == searched_for[:2] and first[2] != other[2]


@pytest.mark.slow
def test_a_drawn_design_ships_at_its_cost_with_its_own_figures(tmp_path: Path) -> None:
    words = [*SMALL, *QUICK, f"output={tmp_path}", "speed_up=1.6", "recipe.epochs=1"]
    metrics, experiment = walk.run(words).metrics, prepare(compose(words))
    assert metrics["cost/speed_up"] == pytest.approx(1.6, rel=0.02) and "search/entropy" not in metrics
    assert set(experiment.method.figures(experiment.outcomes())) == {"design"}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["speed_up=9"], r"speed_up=9 is out of reach: the cheapest design in method.gamma gives \d\.\d+"),
        ([], r"draws designs of a cost: give speed_up=, not nothing"),
        (["sparsity=0.5"], r"give speed_up=, not sparsity=0.5"),
        (["speed_up=2", "method.branches=2"], "method.branches=2"),
        (["speed_up=2", "method.search.number=-1"], r"search.number=-1 \(at least 0\)"),
    ],
)
def test_what_is_refused(more: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        assert prepare(compose([*SMALL, *QUICK, f"output={tmp_path}", *more])).steps
