"""An independent count of parameters and multiply-adds: torch's own counter on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These networks and images are small: a second thread costs more than it brings, most of all beside others."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def measure():
    """measure(builder, (channels, height, width), **arguments) -> (parameters, MACs), on the meta device."""

    def run(builder: Callable[..., nn.Module], input_shape: tuple[int, int, int], **arguments) -> tuple[int, int]:
        with torch.device("meta"), FlopCounterMode(display=False) as counter:
            network = builder(**arguments).eval()
            network(torch.empty(1, *input_shape))
        parameters = sum(parameter.numel() for parameter in network.parameters())
        return parameters, counter.get_total_flops() // 2

    return run


@pytest.fixture
def perturb():
    """perturb(network): batch norm statistics and scales away from 0 and 1, so that none can be left out."""

    def run(network: nn.Module) -> nn.Module:
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                nn.init.normal_(layer.bias, std=0.2)
                nn.init.normal_(layer.running_mean, std=0.2)
                nn.init.uniform_(layer.running_var, 0.5, 1.5)
        return network.eval()

    return run
