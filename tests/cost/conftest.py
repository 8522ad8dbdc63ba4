"""Small rewritten layers and networks whose cost is known by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from paredown.core.compressed import CompressedLayer


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These networks are small: a second thread costs more than it brings, most of all beside others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class LowRank(CompressedLayer):
    """A 3x3 convolution of `rank` as a 3x3 and a 1x1 with a bias; `scale` is folded when deployed. `says` lies."""

    def __init__(self, inputs: int, rank: int, outputs: int, says: int | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, rank, 3, padding=1, bias=False)
        self.second = nn.Conv2d(rank, outputs, 1)
        self.register_buffer("scale", torch.full((1, rank, 1, 1), 2.0))
        self.says = says

    def forward(self, input):
        return self.second(self.first(input) * self.scale)

    def active_weights(self):
        return self.first.weight.numel() + self.second.weight.numel()

    def macs(self, input_shape):
        return self.says or self.active_weights() * input_shape[1] * input_shape[2]

    def deployed(self):
        plain = nn.Sequential(nn.Conv2d(self.first.in_channels, self.first.out_channels, 3, padding=1, bias=False))
        plain[0].weight = nn.Parameter(self.first.weight * self.scale.transpose(0, 1))
        return plain.append(self.second)


@pytest.fixture
def low_rank():
    return LowRank
