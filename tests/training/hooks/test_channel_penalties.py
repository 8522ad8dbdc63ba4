"""The gradients of the channel penalties are those that the authors add by hand."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from paredown.core.hooks import Context, FitState
from paredown.core.recipe import Recipe
from paredown.training.hooks.channel_penalties import GroupSparsity, ScaleSparsity, strengths


def fit() -> FitState:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    context = Context(SimpleNamespace(input_shape=(3, 2, 2)), torch.device("cpu"), 0)
    return FitState(model, context, Recipe(epochs=1))


def test_scales_are_pulled_by_their_sign() -> None:
    state = fit()
    state.model[1].weight.data = torch.tensor([0.5, -0.5, 0.0, 2.0])
    ScaleSparsity(0.1).penalties(state)["scales"].backward()
    assert state.model[1].weight.grad.tolist() == pytest.approx([0.1, -0.1, 0.0, 0.1])


def test_synchronised_batch_norms_are_pulled_too() -> None:
    state = fit()
    state.model = nn.SyncBatchNorm.convert_sync_batchnorm(state.model)
    assert float(ScaleSparsity(0.1).penalties(state)["scales"]) == pytest.approx(0.4)


def test_strengths_run_from_sixteen_to_one() -> None:
    assert strengths(torch.tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([16.0, 4.0, 1.0])
    assert strengths(torch.ones(3)).tolist() == [1.0, 1.0, 1.0]


def test_every_weight_of_a_channel_is_pulled_by_its_strength() -> None:
    state = fit()
    hook = GroupSparsity(0.01)
    hook.start(state)
    hook.penalties(state)["groups"].backward()
    conv, norm, linear = state.model[0], state.model[1], state.model[4]
    columns = linear.weight.detach().reshape(2, 4, 4)
    parts = [conv.weight.detach().square().flatten(1).sum(1), norm.weight.detach().square()]
    parts.append(columns.square().sum((0, 2)))
    strength = strengths(torch.stack(parts).mean(0).sqrt())
    torch.testing.assert_close(conv.weight.grad, 0.01 * strength[:, None, None, None] * conv.weight.detach())
    torch.testing.assert_close(norm.weight.grad, 0.01 * strength * norm.weight.detach())
    torch.testing.assert_close(linear.weight.grad.reshape(2, 4, 4), 0.01 * strength[None, :, None] * columns)
    assert conv.bias.grad is None
