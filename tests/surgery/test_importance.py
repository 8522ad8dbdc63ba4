"""Importances of channels by hand-made weights, and the properties that define them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paredown.core.errors import UserError
from paredown.graph.channels import Group, channels
from paredown.surgery.importance import group_norm, l1, scale


def small() -> tuple[nn.Module, tuple[Group, ...]]:
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(16, 2)
    )
    return module, channels(module, (3, 4, 4)).groups


def test_l1_sums_a_filter_of_each_producer() -> None:
    module, groups = small()
    sums = module[0].weight.detach().double().abs().sum((1, 2, 3))
    torch.testing.assert_close(l1(module, groups, normalise=False)["0"], sums)  # the depthwise layer is no producer
    torch.testing.assert_close(l1(module, groups)["0"], sums / sums.mean())


def test_the_scales_that_share_a_channel_are_reduced() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.fc = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1), nn.Linear(2, 2)
            self.first, self.second = nn.BatchNorm2d(2), nn.BatchNorm2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(self.a(x))
            return self.fc((x + self.second(self.b(x))).mean((2, 3)))

    module = Residual()
    module.first.weight.data, module.second.weight.data = torch.tensor([-3.0, 1.0]), torch.tensor([1.0, 2.0])
    groups = channels(module, (3, 4, 4)).groups
    expected = {"max": [3.0, 2.0], "sum": [4.0, 3.0], "mean": [2.0, 1.5]}
    assert {reduce: scale(module, groups, reduce)["a"].tolist() for reduce in expected} == expected


def test_a_group_without_a_batch_norm_has_no_scale() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(UserError, match="no batch norm ranks the channels at 1: leave them out"):
        scale(module, channels(module, (1, 2, 2)).groups)


def test_the_group_norm_is_over_rows_columns_and_scales() -> None:
    module, groups = small()
    module[1].weight.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    square = [layer.weight.detach().double().square() for layer in (module[0], module[3], module[5])]
    columns = square[2].sum(0).reshape(4, 4).sum(1)
    parts = [square[0].flatten(1).sum(1), torch.tensor([1.0, 4, 9, 16]).double(), square[1].flatten(1).sum(1), columns]
    expected = torch.stack(parts).mean(0)
    torch.testing.assert_close(group_norm(module, groups)["0"], expected / expected.mean())
