"""Soft filters: zero when evaluated, trained on in between, exact when resumed."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from paredown.core.hooks import Context, FitState
from paredown.core.recipe import Recipe
from paredown.training.hooks.soft_filters import SoftFilters

IMAGE = (3, 6, 6)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    block = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.ReLU()]
    return nn.Sequential(*block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))


def fit(model: nn.Module, epochs: int = 3) -> FitState:
    context = Context(SimpleNamespace(input_shape=IMAGE), torch.device("cpu"), 0)
    state = FitState(model, context, Recipe(epochs))
    state.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    return state


def epoch(hook: SoftFilters, state: FitState, number: int, steps: int = 3) -> None:
    """What the loop does in one epoch."""
    state.epoch = number
    torch.manual_seed(number)
    for step in range(steps):
        state.step_in_epoch = step
        hook.before_step(state)
        state.optimizer.zero_grad()
        state.model.train()(torch.randn(16, *IMAGE)).square().mean().backward()
        hook.after_backward(state)
        state.optimizer.step()
        hook.after_step(state)
    hook.before_evaluation(state)


def started(model: nn.Module, **settings: Any) -> tuple[SoftFilters, FitState]:
    hook = SoftFilters(settings.pop("keep", {"0": 5, "3": 4}), **settings)
    state = fit(model, settings.get("epochs", 3))
    hook.start(state)
    return hook, state


def zero_rows(layer: Any) -> list[int]:
    return (layer.weight.detach().flatten(1) == 0).all(1).nonzero()[:, 0].tolist()


def test_the_smallest_filters_are_zero_when_evaluated() -> None:
    model = network()
    hook, state = started(model)
    assert zero_rows(model[0]) == []
    state.optimizer.param_groups[0]["lr"] = 0.0
    norms = model[0].weight.detach().double().flatten(1).norm(dim=1)
    epoch(hook, state, 0)
    assert zero_rows(model[0]) == norms.argsort()[:3].sort().values.tolist()
    for conv, norm, gone in ((model[0], model[1], 3), (model[3], model[4], 2)):
        rows = zero_rows(conv)
        assert len(rows) == gone
        assert norm.weight[rows].abs().sum() == norm.bias[rows].abs().sum() == 0
        assert (norm.weight != 0).sum() == len(norm.weight) - gone
        assert conv.bias[rows].abs().sum() == 0


def test_a_filter_may_come_back() -> None:
    """Behind a ReLU it only can because batch norm's scale and shift are there again when it trains."""
    model = network()
    model[1].bias.data.fill_(0.5)
    hook, state = started(model)
    epoch(hook, state, 0)
    rows, scale = zero_rows(model[0]), model[1].weight.detach().clone()
    hook.before_step(state)
    assert (model[1].weight[rows] != 0).all() and not torch.equal(model[1].weight, scale)
    epoch(hook, state, 1)
    moved = copy.deepcopy(model)
    state.step_in_epoch = 0
    hook.before_step(state)
    model.train()(torch.randn(16, *IMAGE)).square().mean().backward()
    assert model[0].weight.grad[zero_rows(moved[0])].abs().sum() > 0


def test_frozen_filters_stay_zero() -> None:
    model = network()
    hook, state = started(model, choice="distance", frozen=True)
    rows = zero_rows(model[0]), zero_rows(model[3])
    for number in range(3):
        epoch(hook, state, number)
        assert (zero_rows(model[0]), zero_rows(model[3])) == rows
        assert model[4].bias[rows[1]].abs().sum() == 0  # its gradient is not zero: nothing but the hook holds it
    assert model[0].weight.grad is not None and model[0].weight.grad[rows[0]].abs().sum() == 0


def test_momentum_of_before_moves_no_frozen_filter() -> None:
    model = network()
    hook = SoftFilters({"0": 5, "3": 4}, "distance", frozen=True)
    state = fit(model)
    model(torch.randn(4, *IMAGE)).square().mean().backward()
    state.optimizer.step()
    hook.start(state)
    rows = zero_rows(model[0])
    epoch(hook, state, 0, steps=1)
    assert zero_rows(model[0]) == rows


@pytest.mark.parametrize("every", [1, 2])
def test_every_and_the_last(every: int) -> None:
    model = network()
    hook, state = started(model, every=every)
    epoch(hook, state, 0)
    assert len(zero_rows(model[0])) == (3 if every == 1 else 0)
    epoch(hook, state, 1)
    assert len(zero_rows(model[0])) == 3
    epoch(hook, state, 2)
    assert len(zero_rows(model[0])) == 3


def test_without_batch_norm_only_the_filters_are_zero() -> None:
    model = network()
    hook, state = started(model, batch_norm=False)
    epoch(hook, state, 0)
    assert len(zero_rows(model[0])) == 3 and (model[1].weight != 0).all()


def test_without_batch_norm_scales_behind_frozen_filters_train() -> None:
    model = network()
    nn.init.constant_(model[1].bias, 0.5)  # of a channel that is 0 behind a ReLU, a shift of 0 would get no gradient
    hook, state = started(model, choice="distance", frozen=True, batch_norm=False)
    rows, before = zero_rows(model[0]), model[1].bias.detach().clone()
    epoch(hook, state, 0)
    assert len(rows) == 3 and zero_rows(model[0]) == rows
    assert (model[1].bias[rows] != before[rows]).all()


@pytest.mark.parametrize("settings", [{}, {"choice": "distance", "frozen": True}, {"every": 2}])
def test_resumed_is_equal(settings: dict[str, Any]) -> None:
    model = network()
    hook, state = started(model, **settings)
    epoch(hook, state, 0)
    weights, remembered = copy.deepcopy(model.state_dict()), copy.deepcopy(hook.state_dict())
    momenta = copy.deepcopy(state.optimizer.state_dict())
    epoch(hook, state, 1)
    again, other = started(network(), **settings)
    other.model.load_state_dict(weights)
    other.optimizer.load_state_dict(momenta)
    again.load_state_dict(remembered)
    epoch(again, other, 1)
    assert all(torch.equal(other.model.state_dict()[name], value) for name, value in model.state_dict().items())
