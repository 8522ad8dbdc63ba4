"""SO and DSO against their definitions, worked values and the published schedule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from paredown.core.hooks import Context, FitState
from paredown.core.recipe import Recipe
from paredown.layers.ssc import layer as ssc
from paredown.training.hooks.penalties import SoftOrthogonality, double_soft_orthogonality, soft_orthogonality


def at(network: nn.Module, epoch: int = 0) -> FitState:
    return FitState(network, Context(None, torch.device("cpu"), 0), Recipe(200), epoch)


def by_definition(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Both norms with both Gram matrices written out; filters are the columns of W (J, N)."""
    columns = weight.flatten(1).T
    across = (columns.T @ columns - torch.eye(columns.shape[1])).norm() ** 2
    along = (columns @ columns.T - torch.eye(columns.shape[0])).norm() ** 2
    return across, along


def test_worked_values() -> None:
    weight = 2 * torch.eye(3)[:2]  # two filters, W W^T - I has an entry -1 more
    assert soft_orthogonality(weight) == 18
    assert double_soft_orthogonality(weight) == 18 + 19
    assert soft_orthogonality(torch.eye(4)) == double_soft_orthogonality(torch.eye(4)) == 0


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (27, 3, 3, 3), (40, 2, 3, 3), (16, 1, 3, 3)])
def test_the_smaller_gram_matrix_is_enough(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, requires_grad=True)
    across, along = by_definition(weight)
    torch.testing.assert_close(soft_orthogonality(weight), across)
    torch.testing.assert_close(double_soft_orthogonality(weight), across + along)
    gradients = [torch.autograd.grad(f(weight), weight)[0] for f in (soft_orthogonality, double_soft_orthogonality)]
    torch.testing.assert_close(gradients[1], 2 * gradients[0])


def test_the_hook_sums_over_all_convolutions_with_zeros_in_place() -> None:
    torch.manual_seed(0)
    sparse = ssc.build(nn.Conv2d(8, 8, 3), 4, 2)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), sparse, nn.Flatten(), nn.Linear(8, 8))
    sparse.weight.data[~sparse.mask] = 5.0  # must not count
    weights = [network[0].weight, network[1].weight, sparse.weight * sparse.mask]
    expected = 0.3 * sum(by_definition(weight)[0] for weight in weights)
    penalty = SoftOrthogonality(0.3).penalties(at(network))
    torch.testing.assert_close(penalty["so"], expected)
    both = SoftOrthogonality(0.3, double=True).penalties(at(network))
    torch.testing.assert_close(both["dso"], 0.3 * sum(sum(by_definition(weight)) for weight in weights))
    penalty["so"].backward()
    assert all(torch.count_nonzero(network[i].weight.grad) for i in (0, 1, 2)) and network[4].weight.grad is None


def test_bf16_does_not_blur_the_penalty() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(16, 16, 3))
    nn.init.orthogonal_(network[0].weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert SoftOrthogonality(1.0).penalties(at(network))["so"] < 1e-9


@pytest.mark.parametrize(
    ("epoch", "factor"), [(0, 1), (20, 1), (21, 1e-3), (50, 1e-3), (51, 1e-4), (71, 1e-6), (120, 1e-6), (121, 0)]
)
def test_the_published_schedule_of_200_epochs(epoch: int, factor: float) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3))
    hook = SoftOrthogonality(1e-2)
    penalties = hook.penalties(at(network, epoch))
    if factor == 0:
        assert penalties == {}
    else:
        expected = 1e-2 * factor * float(soft_orthogonality(network[0].weight))
        assert float(penalties["so"]) == pytest.approx(expected, rel=1e-5)


def test_descent_makes_filters_orthonormal() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(4, 6, 3, bias=False))
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05)
    for _ in range(200):
        optimiser.zero_grad()
        SoftOrthogonality(1.0).penalties(at(network))["so"].backward()
        optimiser.step()
    filters = network[0].weight.flatten(1)
    torch.testing.assert_close(filters @ filters.T, torch.eye(6), atol=1e-4, rtol=0)
