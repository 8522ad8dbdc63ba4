"""The solver against closed forms, brute force and scikit-learn; the greedy ranks against every choice there is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from paredown.surgery.reconstruct import (
    SCHEDULE,
    Regression,
    apply,
    auxiliary,
    deviations,
    greedy_ranks,
    linear,
    nonlinear,
    solve,
    squared_error,
)


def responses(count: int = 400, width: int = 8, mean: float = -0.5, seed: int = 0) -> Tensor:
    """Correlated samples (count, width) with a decaying spectrum."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64) * 0.7 ** torch.arange(width)[:, None]
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing + mean


@pytest.mark.parametrize("rank", [1, 3, 7, 8])
def test_linear_from_the_same_responses_is_their_pca(rank: int) -> None:
    y = responses()
    pca = PCA(rank).fit(y.numpy())
    expected = torch.from_numpy(pca.inverse_transform(pca.transform(y.numpy())))
    torch.testing.assert_close(apply(linear(y, y, rank), y), expected)
    dropped = torch.linalg.eigvalsh(torch.cov(y.T, correction=0)).flip(0)[rank:].sum() * len(y)
    assert squared_error(apply(linear(y, y, rank), y), y) == pytest.approx(float(dropped), abs=1e-9)
    torch.testing.assert_close(deviations(y)[:rank] ** 2 * len(y), torch.from_numpy(pca.singular_values_) ** 2)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_linear_is_the_published_closed_form_and_no_other_map_is_better(rank: int) -> None:
    x, y = responses(seed=1), responses(width=6, seed=2) + responses(seed=1)[:, :6]
    weight, bias = linear(x, y, rank)
    g, q = x - x.mean(0), y - y.mean(0)
    left, s, right = torch.linalg.svd(g @ torch.linalg.pinv(g) @ q, full_matrices=False)
    truncated = torch.linalg.pinv(g) @ (left[:, :rank] * s[:rank]) @ right[:rank]
    torch.testing.assert_close(weight.T, truncated)
    assert torch.linalg.matrix_rank(weight) == rank
    least = squared_error(apply((weight, bias), x), y)
    generator = torch.Generator().manual_seed(0)
    for scale in (1e-3, 1e-2, 1e-1):  # maps of the same rank nearby
        p, s, q = torch.linalg.svd(weight)
        noise = [scale * torch.randn(m.shape, generator=generator, dtype=m.dtype) for m in (p, q, bias)]
        nearby = ((p + noise[0])[:, :rank] * s[:rank] @ (q + noise[1])[:rank], bias + noise[2])
        assert squared_error(apply(nearby, x), y) > least


@pytest.mark.parametrize("weight", [0.01, 0.1, 1.0, 10.0])
def test_the_auxiliary_step_is_the_elementwise_minimiser(weight: float) -> None:
    fitted, wanted = torch.meshgrid(torch.linspace(-3, 3, 31), torch.linspace(0, 3, 16), indexing="ij")
    fitted, wanted = fitted.double(), wanted.double()

    def objective(z: Tensor) -> Tensor:
        return (wanted - z.relu()) ** 2 + weight * (z - fitted) ** 2

    grid = torch.linspace(-4, 4, 4001, dtype=torch.float64)
    least = objective(grid[:, None, None]).amin(0)
    found = objective(auxiliary(fitted, wanted, weight))
    assert (found <= least + 1e-12).all() and (found >= least - 1e-4).all()


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_the_objective_never_rises_in_turns(weight: float) -> None:
    y = responses()
    wanted, regression = y.relu(), Regression(y)
    fitted, before = apply(regression.fit(y, 3), y), math.inf
    for _ in range(30):
        z = auxiliary(fitted, wanted, weight)
        after_z = squared_error(z.relu(), wanted) + weight * squared_error(z, fitted)
        fitted = apply(regression.fit(z, 3), y)
        after_fit = squared_error(z.relu(), wanted) + weight * squared_error(z, fitted)
        assert after_fit <= after_z * (1 + 1e-12) <= before * (1 + 1e-12)
        before = after_fit
    assert len(SCHEDULE) == 50


@pytest.mark.parametrize(("mean", "ratio"), [(-0.5, 0.95), (-1.5, 0.8), (-2.5, 0.75)])
def test_nonlinear_is_nearer_behind_the_relu(mean: float, ratio: float) -> None:
    y = responses(mean=mean)
    errors = [squared_error(apply(fit(y, y, 3), y).relu(), y.relu()) for fit in (linear, nonlinear)]
    assert errors[1] < ratio * errors[0]


def test_nonlinear_changes_nothing_where_nothing_is_negative() -> None:
    y = responses(mean=100)
    for ours, theirs in zip(nonlinear(y, y, 3), linear(y, y, 3), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("relu", [False, True])
def test_a_map_of_full_rank_has_no_error_and_a_constant_layer_no_nan(relu: bool) -> None:
    y = responses()
    (weight, bias), error = solve(y, y, 8, relu)
    assert error < 1e-12
    torch.testing.assert_close(apply((weight, bias), y), y, atol=1e-6, rtol=1e-6)
    (weight, bias), error = solve(y, torch.full((400, 3), 2.0, dtype=torch.float64), 1, relu)
    assert torch.allclose(apply((weight, bias), y), torch.tensor(2.0).double()) and error < 1e-12


def total(per_rank: dict[str, int], ranks: dict[str, int]) -> int:
    return sum(rank * per_rank[name] for name, rank in ranks.items())


def kept_share(spectra: dict[str, Tensor], ranks: dict[str, int]) -> float:
    return math.prod(float(spectra[name][:rank].square().sum()) for name, rank in ranks.items())


@pytest.mark.parametrize("seed", range(5))
def test_greedy_ranks_are_the_best_of_all_where_every_rank_costs_the_same(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    spectra = {name: torch.rand(5, generator=generator).sort(descending=True).values for name in "abc"}
    costs = dict.fromkeys("abc", 7)
    for limit in (21, 50, 77, 104):
        choices = [dict(zip("abc", ranks, strict=True)) for ranks in itertools.product(range(1, 6), repeat=3)]
        best = max((c for c in choices if total(costs, c) <= limit), key=lambda c: kept_share(spectra, c))
        assert greedy_ranks(spectra, costs, limit) == best


@pytest.mark.parametrize("seed", range(5))
def test_greedy_ranks_keep_nearly_as_much_as_the_best_where_costs_differ(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    spectra = {name: torch.rand(6, generator=generator).sort(descending=True).values for name in "abc"}
    costs = {"a": 1, "b": 3, "c": 10}
    for limit in (20, 40, 60, 80):
        choices = [dict(zip("abc", ranks, strict=True)) for ranks in itertools.product(range(1, 7), repeat=3)]
        best = max(kept_share(spectra, c) for c in choices if total(costs, c) <= limit)
        found = greedy_ranks(spectra, costs, limit)
        assert total(costs, found) <= limit and kept_share(spectra, found) > 0.6 * best


def test_greedy_ranks_by_hand() -> None:
    spectra = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 2.0]), "dead": torch.zeros(2)}
    costs = {"a": 1, "b": 10, "dead": 1}
    assert greedy_ranks(spectra, costs, 24) == {"a": 2, "b": 2, "dead": 2}
    assert greedy_ranks(spectra, costs, 23) == {"a": 2, "b": 2, "dead": 1}  # nothing lost
    # a would lose 1/10 of its squares for 1, b 1/2 for 10: b's is the cheaper loss
    assert greedy_ranks(spectra, costs, 22) == {"a": 2, "b": 1, "dead": 1}
    assert greedy_ranks(spectra, costs, 0) == {"a": 1, "b": 1, "dead": 1}
