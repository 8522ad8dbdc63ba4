"""Importances that are propagated down a network: the papers' formulas on numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.graph.channels import channels
from paredown.surgery.propagation import Absolute, infinite_selection, last_linear, path_energies, propagated


def hidden() -> nn.Sequential:
    """Two linear layers of known weights, and a third whose inputs are scored."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 4))
    network[1].weight.data = torch.tensor([[1.0, 0, -1], [2, 1, 0]])
    network[3].weight.data = torch.tensor([[1.0, -2], [0, 3]])
    return network


def conv(stride: int) -> nn.Sequential:
    network = nn.Sequential(
        nn.Conv2d(1, 1, 3, stride, padding=1), nn.BatchNorm2d(1), nn.ReLU(), nn.Flatten(), nn.Linear(16 // stride**2, 2)
    )
    network[0].weight.data = -torch.ones(1, 1, 3, 3)
    return network


def test_through_linear_layers() -> None:
    found = Absolute(hidden()).pull((3, 1, 1), torch.tensor([1.0, 2.0]), {})
    assert found["3"].flatten().tolist() == [1, 2]
    assert found["1"].flatten().tolist() == [1, 8]
    assert found[""].flatten().tolist() == [17, 8, 1]


def test_what_is_removed_passes_nothing_on() -> None:
    def without_the_first(layer: str, gradient: Tensor) -> Tensor:
        return gradient * torch.tensor([0.0, 1.0])

    found = Absolute(hidden()).pull((3, 1, 1), torch.tensor([1.0, 2.0]), {"1": without_the_first})
    assert found[""].flatten().tolist() == [16, 8, 0]


def test_through_convolutions() -> None:
    one = Absolute(conv(1)).pull((1, 4, 4), torch.ones(16), {})[""][0, 0]
    assert one.tolist() == [[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]]
    two = Absolute(conv(2)).pull((1, 4, 4), torch.ones(4), {})[""][0, 0]
    assert two.tolist() == [[1, 2, 1, 1], [2, 4, 2, 2], [1, 2, 1, 1], [1, 2, 1, 1]]


class Odd(nn.Module):
    """Functional operators, a gate, an addition and a maximum pool."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.fc = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x)) * 2
        gate = torch.sigmoid(self.gate(functional.adaptive_avg_pool2d(x, 1)))
        x = functional.max_pool2d(x * gate + x, 2)
        return self.fc(x.mean((2, 3)))


def test_gates_are_one_and_maxima_averages() -> None:
    odd = Odd()
    found = Absolute(odd).pull((3, 4, 4), torch.ones(4), {})
    assert torch.allclose(found["conv"], torch.full((1, 4, 4, 4), 2 / 16, dtype=torch.float64))
    assert "gate" not in found


def test_the_selection_in_closed_form() -> None:
    assert path_energies(torch.diag(torch.tensor([2.0, 1.0]).double())).tolist() == pytest.approx([9, 9 / 11])
    for p, q in ((1.0, 0.5), (0.3, 2.0)):
        edges = torch.tensor([[p, q], [q, p]], dtype=torch.float64)
        assert path_energies(edges).tolist() == pytest.approx([9, 9])
    assert path_energies(torch.zeros(3, 3).double()).tolist() == [0, 0, 0]


def test_a_feature_of_its_own_is_worth_more_than_a_copy() -> None:
    torch.manual_seed(0)
    one, other = torch.randn(500), torch.randn(500)
    scores = infinite_selection(torch.stack([one, one.exp(), one, other, torch.zeros(500)], 1), alpha=0.0)
    assert scores[:3].tolist() == pytest.approx([float(scores[0])] * 3)  # ranks alone count: monotone maps are equal
    assert scores[3] > scores[0]
    assert scores.isfinite().all()  # the constant one too
    spread = infinite_selection(torch.stack([one, 3 * other], 1), alpha=1.0)
    assert spread.isfinite().all()


def test_groups_of_a_residual_network() -> None:
    torch.manual_seed(0)
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "shortcut": "A"}
    module = blueprint.create(architecture, (3, 16, 16)).module
    groups = channels(module, (3, 16, 16)).groups
    widths = {group.name: group.size // 2 for group in groups}
    top = torch.rand(64)
    scores = propagated(module, (3, 16, 16), groups, top, widths)
    assert {name: len(values) for name, values in scores.items()} == {group.name: group.size for group in groups}
    assert all(float(values.sum()) == pytest.approx(1) and (values >= 0).all() for values in scores.values())
    whole = propagated(module, (3, 16, 16), groups, top, {})
    inner = next(group.name for group in groups if group.name.endswith("layer1.0.conv1"))
    assert not torch.allclose(scores[inner], whole[inner])  # the removed channels of layers above count no more
    last = next(group.name for group in groups if group.name == "layer3.0.conv1")
    assert torch.allclose(propagated(module, (3, 16, 16), groups, 7 * top, widths)[last], scores[last])


def test_a_network_without_a_linear_layer_is_refused() -> None:
    with pytest.raises(UserError, match="nisp scores the inputs of the last linear layer"):
        last_linear(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
