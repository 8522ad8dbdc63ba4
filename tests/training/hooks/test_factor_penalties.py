"""The regularisers of SVD training against worked values, definitions and invariances."""

from __future__ import annotations

import pytest
import torch

from paredown.core import blueprint
from paredown.core.hooks import Context, FitState
from paredown.core.recipe import Recipe
from paredown.layers.factorised.low_rank import decompose, low_rank_layers
from paredown.surgery.factorise import convolutions
from paredown.training.hooks.factor_penalties import (
    SPARSIFIERS,
    FactorOrthogonality,
    SingularValueSparsity,
    factor_orthogonality,
    hoyer,
    hoyer_square,
    l1,
)


def at(network: torch.nn.Module) -> FitState:
    return FitState(network, Context(None, torch.device("cpu"), 0), Recipe(1))


def factorised(form: str = "vertical_first", random: bool = True) -> torch.nn.Module:
    torch.manual_seed(0)
    network = blueprint.create({"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8}, (3, 8, 8))
    for name, conv in convolutions(network.module).items():
        layer = decompose(conv, form)
        if random:
            torch.nn.init.normal_(layer.U)
        network.module.set_submodule(name, layer)
    return network.module


def test_worked_values() -> None:
    s = torch.tensor([10.0, 5, 2, 1], dtype=torch.float64)
    assert float(hoyer(s)) == pytest.approx(0.578704, abs=1e-6)
    assert float(hoyer_square(s)) == pytest.approx(1.492308, abs=1e-6)
    assert float(l1(s)) == 18
    assert float(factor_orthogonality(torch.tensor([[1.0, 0], [1, 1]]))) == 0.75


def test_hoyer_forgets_scale_order_and_sign_and_has_its_closed_gradient() -> None:
    s = torch.randn(9, dtype=torch.float64, requires_grad=True)
    for same in (3 * s, s.flip(0), -s):
        torch.testing.assert_close(hoyer(same), hoyer(s))
    (gradient,) = torch.autograd.grad(hoyer(s), s)
    norm = s.norm()
    torch.testing.assert_close(gradient, s.sign() / norm - s * s.abs().sum() / norm**3)
    shrinks = s.abs() < norm**2 / s.abs().sum()
    assert torch.equal(gradient * s.sign() > 0, shrinks)


@pytest.mark.parametrize("penalty", SPARSIFIERS.values(), ids=SPARSIFIERS)
def test_a_layer_without_singular_values_costs_nothing_and_has_a_gradient(penalty) -> None:
    s = torch.zeros(4, requires_grad=True)
    penalty(s).backward()
    assert float(penalty(s)) == 0 and bool(s.grad.isfinite().all())


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 4)])
def test_orthonormal_factors_cost_nothing(shape) -> None:
    matrix = torch.randn(shape, dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert float(factor_orthogonality(left @ right)) < 1e-25
    q = min(shape)
    small = matrix @ matrix.T if shape[0] <= shape[1] else matrix.T @ matrix
    by_definition = (small - torch.eye(q)).norm() ** 2 / q**2
    torch.testing.assert_close(factor_orthogonality(matrix), by_definition)


@pytest.mark.parametrize("form", ["in_group", "vertical_first"])
def test_the_hooks_sum_over_layers_and_batch_without_a_difference(form) -> None:
    network = factorised(form).double()
    layers = low_rank_layers(network).values()
    found = FactorOrthogonality(2.0).penalties(at(network))["orthogonality"]
    torch.testing.assert_close(found, 2 * sum(factor_orthogonality(f) for layer in layers for f in (layer.U, layer.V)))
    for kind, penalty in SPARSIFIERS.items():
        found = SingularValueSparsity(0.3, kind).penalties(at(network))
        assert list(found) == [kind]
        torch.testing.assert_close(found[kind], 0.3 * sum(penalty(layer.s) for layer in layers))


def test_a_weight_of_zero_adds_nothing_but_is_still_watched() -> None:
    network = factorised()
    hook = FactorOrthogonality(0.0)
    assert hook.penalties(at(network)) == {}
    figures = hook.after_epoch(at(network))
    assert figures["orthogonality/sum"] > 1
    ranks = [figures[f"rank/at_{energy}"] for energy in ("1e-01", "1e-02", "1e-03", "1e-04", "1e-05")]
    assert ranks == sorted(ranks) and ranks[-1] <= sum(layer.rank for layer in low_rank_layers(network).values())


def test_where_all_fell_back_to_dense_there_is_nothing_to_add() -> None:
    assert FactorOrthogonality(1.0).penalties(at(torch.nn.Linear(2, 2))) == {}


def test_under_bf16_autocast_the_penalty_keeps_its_precision() -> None:
    network = factorised(random=False)
    with torch.autocast("cpu", torch.bfloat16):
        penalty = FactorOrthogonality(1.0).penalties(at(network))["orthogonality"]
    assert penalty.dtype == torch.float32 and float(penalty) < 1e-9
