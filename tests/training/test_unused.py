"""Parameters without a gradient: they are found on a copy, and ranks are told to look for them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paredown.core.network import Network
from paredown.training.fit import FINDING, _strategy
from paredown.training.unused import has_unused


class Net(nn.Module):
    """A network whose classifier `unused` is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 3)
        self.unused = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(images)).mean((2, 3)))


def test_an_unused_layer_is_found_and_the_network_stays_as_it_was() -> None:
    network = Network(Net().eval(), {}, (1, 8, 8))
    before = torch.get_rng_state()
    assert has_unused(network)
    assert not network.module.training and not network.module.norm.num_batches_tracked
    assert network.module.conv.weight.grad is None and torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("change", ["frozen", "gone"])
def test_what_has_no_use_for_a_gradient_is_not_looked_for(change: str) -> None:
    module = Net()
    if change == "frozen":
        module.unused.requires_grad_(False)
    else:
        del module.unused
    assert not has_unused(Network(module, {}, (1, 8, 8)))


def test_the_ranks_look_for_them_where_there_are_some() -> None:
    assert _strategy("auto", unused=True) == _strategy("ddp", unused=True) == FINDING
    assert _strategy("auto", unused=False) == "auto" and _strategy("ddp", unused=False) == "ddp"
