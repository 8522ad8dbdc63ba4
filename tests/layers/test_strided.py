"""Strided 1 x 1 convolutions against float64, in a process of their own: what they mend is heap corruption."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from paredown.layers.strided import conv_forward, is_affected, subsampled

GRADIENTS = """
import torch
from torch import nn
from paredown.layers.strided import subsampled
torch.manual_seed(0)
for stride in ((1, 2), (2, 1), (2, 2)):
    conv = nn.Conv2d(5, 32, 1, stride, bias=False).to(memory_format=torch.channels_last)
    exact = nn.Conv2d(5, 32, 1, stride, bias=False).double()
    exact.weight.data.copy_(conv.weight)
    x = torch.randn(64, 5, 4, 8).to(memory_format=torch.channels_last)
    (wanted,) = torch.autograd.grad(exact(x.double()).square().sum(), exact.weight)
    with subsampled(conv):
        for _ in range(30):
            (found,) = torch.autograd.grad(conv(x).square().sum(), conv.weight)
    assert torch.allclose(found.double(), wanted, rtol=1e-4), stride
print("equal")
"""


def test_the_weight_gradient_is_exact_and_stays_in_bounds() -> None:
    environment = {"MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [sys.executable, "-c", GRADIENTS], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert found.stdout == "equal\n", found.stderr[-500:]


@pytest.mark.parametrize(
    ("conv", "affected"),
    [
        (nn.Conv2d(5, 4, 1, 2), True),
        (nn.Conv2d(5, 4, 1, (1, 2)), True),
        (nn.Conv2d(8, 4, 1, 2), False),
        (nn.Conv2d(5, 4, 1), False),
        (nn.Conv2d(5, 4, (1, 3), 2), False),
        (nn.Conv2d(6, 4, 1, 2, groups=2), False),
        (nn.Conv2d(5, 4, 1, 2, padding=1), False),
    ],
)
def test_outputs_are_those_of_the_convolution(conv: nn.Conv2d, affected: bool) -> None:
    x = torch.randn(2, conv.in_channels, 7, 9)
    assert is_affected(conv) == affected
    assert torch.allclose(conv_forward(conv, x, conv.weight, conv.bias), conv(x), atol=1e-6)
    plain = conv(x)
    with subsampled(nn.Sequential(conv)):
        assert ("_conv_forward" in vars(conv)) == affected
        assert torch.allclose(conv(x), plain, atol=1e-6)
    assert "_conv_forward" not in vars(conv)
