"""CNN-FCF's selection: projections and gradients worked out by hand, fixed points, factors that become binary."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from paredown.core.hooks import Context, FitState
from paredown.core.recipe import Recipe
from paredown.layers.factored import FactoredConv2d, to_box, to_sphere
from paredown.training.hooks.filter_selection import FilterSelection, binary_gap


def started(filters: int, keep: int, **settings: Any) -> tuple[FilterSelection, FitState, FactoredConv2d]:
    torch.manual_seed(0)
    layer = FactoredConv2d(nn.Conv2d(2, filters, 1, bias=False))
    model = nn.Sequential(layer)
    context = Context(SimpleNamespace(input_shape=(2, 1, 1)), torch.device("cpu"), 0)
    state = FitState(model, context, Recipe(1))
    state.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hook = FilterSelection({"0": keep}, **settings)
    hook.start(state)
    return hook, state, layer


def step(hook: FilterSelection, state: FitState, gradient: torch.Tensor) -> None:
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.model[0].factors.grad = gradient.clone()
    hook.after_backward(state)
    state.optimizer.step()
    hook.after_step(state)


@pytest.mark.parametrize(
    ("values", "total", "expected"),
    [
        ([1.4, 0.9, 0.2, -0.3], 2, [1, 0.85, 0.15, 0]),
        ([0.9, 0.8, 0.3, 0.1], 2, [0.875, 0.775, 0.275, 0.075]),
        ([1.0, 1.0, 1.0, 1.0], 3, [0.75] * 4),
        ([1.0, 0.0, 1.0, 0.0], 2, [1, 0, 1, 0]),
        ([5.0, 1.0, -7.0], 3, [1, 1, 1]),
        ([0.3, 0.3, 0.3], 1, [1 / 3] * 3),
    ],
)
def test_the_box(values: list[float], total: int, expected: list[float]) -> None:
    assert to_box(torch.tensor(values, dtype=torch.float64), total).tolist() == pytest.approx(expected)


def test_the_box_is_the_nearest_point() -> None:
    torch.manual_seed(0)
    for total in (1, 3, 6):
        values = 2 * torch.randn(7, dtype=torch.float64)
        near = to_box(values, total)
        assert float(near.sum()) == pytest.approx(total) and near.min() >= 0 and near.max() <= 1
        for _ in range(50):
            other = to_box(values + torch.randn(7, dtype=torch.float64), total)  # a point of the set
            assert float((values - near) @ (other - near)) <= 1e-9  # variational inequality of a projection


def test_the_sphere() -> None:
    assert to_sphere(torch.ones(4)).tolist() == [1] * 4
    assert to_sphere(torch.tensor([0.5, 0.5])).tolist() == pytest.approx([1, 1])
    found = to_sphere(torch.tensor([3.0, -1, 0.7], dtype=torch.float64))
    assert float((found - 0.5).norm()) == pytest.approx(3**0.5 / 2)


def test_the_first_gradient_by_hand() -> None:
    hook, state, layer = started(4, 3, alpha=1.0)
    layer.factors.grad = torch.full((4,), 7.0)
    hook.after_backward(state)
    assert layer.factors.grad.tolist() == pytest.approx([0.0025] * 4)
    hook, state, layer = started(4, 3, alpha=0.75)
    layer.factors.grad = torch.full((4,), 8.0)
    hook.after_backward(state)
    assert layer.factors.grad.tolist() == pytest.approx([2 + 0.75 * 0.0025] * 4)


def test_a_binary_choice_is_a_fixed_point() -> None:
    hook, state, layer = started(4, 2)
    layer.factors.data = torch.tensor([1.0, 0, 0, 1])
    step(hook, state, torch.zeros(4))
    assert layer.factors.tolist() == [1, 0, 0, 1]
    assert layer.box.abs().sum() == layer.sphere.abs().sum() == 0
    assert float(layer.penalty) == pytest.approx(0.0101)


def test_factors_become_binary_and_the_least_useful_go() -> None:
    hook, state, layer = started(8, 5)
    gradient = torch.linspace(-1, 1, 8)  # the loss falls where the first grow
    for _ in range(1500):
        step(hook, state, gradient)
    assert binary_gap(layer.factors.detach()) < 0.05
    assert layer.factors.detach().argsort(descending=True)[:5].sort().values.tolist() == [0, 1, 2, 3, 4]
    assert int((layer.factors > 0.1).sum()) == 5
    assert 6.0 <= float(layer.penalty) < 6.1
    assert hook.after_epoch(state)["factor/binary_gap"] < 0.05


def test_all_that_is_remembered_is_in_the_state_dict() -> None:
    gradients = [torch.randn(6) for _ in range(10)]
    hook, state, _ = started(6, 4)
    for gradient in gradients[:5]:
        step(hook, state, gradient)
    weights = copy.deepcopy(state.model.state_dict())
    again, other, _ = started(6, 4)
    other.model.load_state_dict(weights)
    for gradient in gradients[5:]:
        step(hook, state, gradient)
        step(again, other, gradient)
    theirs = other.model.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in state.model.state_dict().items())


def test_the_deployed_form() -> None:
    torch.manual_seed(0)
    layer = FactoredConv2d(nn.Conv2d(3, 5, 3, stride=2, padding=1, padding_mode="circular"))
    layer.factors.data = torch.randn(5)
    images = torch.randn(2, 3, 8, 8)
    plain = layer.deployed()
    assert type(plain) is nn.Conv2d and torch.equal(plain(images), layer(images))
    assert layer.macs((3, 8, 8)) == 5 * 3 * 9 * 16
    assert set(layer.state_dict()) == {"conv.weight", "conv.bias", "factors", "box", "sphere", "penalty"}
