"""Masks that move in the middle of a fit: nothing that is masked has a value, and nothing that grows has momentum."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from paredown.layers.masked import MaskedConv2d, MaskedLinear


def linear(mask: list[list[bool]]) -> MaskedLinear:
    torch.manual_seed(0)
    return MaskedLinear(nn.Linear(3, 2), torch.tensor(mask))


FIRST = [[True, True, False], [True, False, True]]
SECOND = [[True, False, True], [True, True, False]]
OPTIMIZERS = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.1, 0.9, weight_decay=1e-2),
    "adam": lambda parameters: torch.optim.Adam(parameters, 0.1),
}


def steps(layer: MaskedLinear, optimizer: torch.optim.Optimizer, number: int = 3) -> None:
    for _ in range(number):
        optimizer.zero_grad()
        layer(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()


def state(layer: MaskedLinear, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for value in optimizer.state[layer.weight].values() if value.shape == layer.weight.shape]


def test_the_specifications_momentum_moves_hidden_weights_where_set_mask_is_used_in_a_fit() -> None:
    """SGD 0.9 at rate 0.1, three steps of gradient 1, prune, one more step: hidden weight -0.2439, buffer 2.439."""
    layer = MaskedLinear(nn.Linear(1, 1, bias=False), torch.ones(1, 1, dtype=torch.bool))
    layer.weight.data.zero_()
    optimizer = torch.optim.SGD([layer.weight], 0.1, 0.9)
    for _ in range(3):
        layer.weight.grad = torch.ones(1, 1)
        optimizer.step()
    layer.set_mask(torch.zeros(1, 1, dtype=torch.bool))
    layer.weight.grad = torch.zeros(1, 1)
    optimizer.step()
    assert float(layer.weight) == pytest.approx(-0.2439) and float(layer.effective_weight()) == 0
    assert float(optimizer.state[layer.weight]["momentum_buffer"]) == pytest.approx(2.439)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_moved_mask_leaves_no_momentum_behind(name: str) -> None:
    layer = linear(FIRST)
    optimizer = OPTIMIZERS[name](layer.parameters())
    steps(layer, optimizer)
    kept = {"weight": layer.weight.detach().clone(), "state": [value.clone() for value in state(layer, optimizer)]}
    new = torch.tensor(SECOND)
    both = new & torch.tensor(FIRST)
    layer.move_mask(new, optimizer)
    assert torch.equal(layer.mask, new)
    assert torch.equal(layer.weight.detach(), kept["weight"] * both)  # what grows starts at 0
    for value, old in zip(state(layer, optimizer), kept["state"], strict=True):
        assert torch.equal(value, old * both) and value.any()
    steps(layer, optimizer)
    assert not layer.weight.detach()[~new].any()
    assert not any(value[~new].any() for value in state(layer, optimizer))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_weight_that_comes_back_starts_from_zero(name: str) -> None:
    layer, optimizer = linear(FIRST), None
    optimizer = OPTIMIZERS[name](layer.parameters())
    for mask in (SECOND, FIRST):
        steps(layer, optimizer)
        layer.move_mask(torch.tensor(mask), optimizer)
    back = torch.tensor(FIRST) & ~torch.tensor(SECOND)
    assert not layer.weight.detach()[back].any()


def test_a_move_before_the_first_step_is_set_mask() -> None:
    layer, other = linear(FIRST), linear(FIRST)
    layer.move_mask(torch.tensor(SECOND), torch.optim.SGD(layer.parameters(), 0.1, 0.9))
    other.set_mask(torch.tensor(SECOND))
    assert torch.equal(layer.weight, other.weight)


def test_the_dense_gradient_reaches_masked_weights_and_changes_no_value() -> None:
    torch.manual_seed(0)
    mask = torch.rand(4, 3, 3, 3) < 0.5
    layer, x = MaskedConv2d(nn.Conv2d(3, 4, 3), mask), torch.randn(2, 3, 6, 6)
    plain = layer(x)
    layer.dense_gradient = True
    through = layer(x)
    assert torch.equal(through, plain)
    weight = (layer.weight * mask).detach().requires_grad_()
    expected = torch.autograd.grad(nn.functional.conv2d(x, weight, layer.bias).square().sum(), weight)[0]
    found = torch.autograd.grad(through.square().sum(), layer.weight)[0]
    assert torch.allclose(found, expected, atol=1e-5) and found[~mask].any()
    layer.dense_gradient = False
    assert not torch.autograd.grad(layer(x).square().sum(), layer.weight)[0][~mask].any()


def test_what_a_dense_gradient_moved_is_gone_after_the_next_move() -> None:
    layer = linear(FIRST)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, 0.9)
    layer.dense_gradient = True
    steps(layer, optimizer)
    assert layer.weight.detach()[~layer.mask].any()
    layer.move_mask(torch.tensor(SECOND), optimizer)
    grown = torch.tensor(SECOND) & ~torch.tensor(FIRST)
    assert not layer.weight.detach()[grown].any() and not optimizer.state[layer.weight]["momentum_buffer"][grown].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_mask_may_move_between_the_backward_pass_and_the_step(name: str) -> None:
    """As in `Hooks.after_backward`: the gradient is that of the old mask."""
    layer = linear(FIRST)
    optimizer = OPTIMIZERS[name](layer.parameters())
    steps(layer, optimizer)
    optimizer.zero_grad()
    layer(torch.ones(4, 3)).square().sum().backward()
    new = torch.tensor(SECOND)
    layer.move_mask(new, optimizer)
    optimizer.step()
    assert not layer.weight.detach()[~new].any()
    assert not any(value[~new].any() for value in state(layer, optimizer))


def test_a_weight_that_leaves_and_joins_at_once_stays_or_starts_from_zero() -> None:
    for kept in (None, torch.tensor([[True, False, False], [True, False, True]])):
        layer = linear(FIRST)
        optimizer = OPTIMIZERS["sgd"](layer.parameters())
        steps(layer, optimizer)
        before = layer.weight.detach().clone()
        layer.move_mask(torch.tensor(FIRST), optimizer, kept)
        stays = torch.tensor(FIRST) if kept is None else kept
        assert torch.equal(layer.mask, torch.tensor(FIRST))
        assert torch.equal(layer.weight.detach(), before * stays)
        assert torch.equal(optimizer.state[layer.weight]["momentum_buffer"] != 0, stays)
