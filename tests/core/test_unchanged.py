"""What is found of a network once: only where it was declared unchanged, and for each set of arguments."""

from __future__ import annotations

import copy

from torch import nn

from paredown.core.network import Network
from paredown.core.unchanged import declare_unchanged, once

CALLS: list[tuple[object, ...]] = []


@once
def sizes(module: nn.Module, factor: int, *, shift: int = 0) -> list[int]:
    """Count its parameters."""
    CALLS.append((factor, shift))
    return [factor * parameter.numel() + shift for parameter in module.parameters()]


def test_an_unchanged_network_is_looked_at_once_for_each_set_of_arguments() -> None:
    CALLS.clear()
    network = declare_unchanged(Network(nn.Linear(2, 3), {}, (1, 1, 2)))
    found = [sizes(network.module, factor, shift=shift) for factor, shift in [(1, 0), (2, 0), (2, 1)] * 2]
    assert found == [[6, 3], [12, 6], [13, 7]] * 2
    assert CALLS == [(1, 0), (2, 0), (2, 1)]


def test_a_copy_and_any_other_network_are_looked_at_each_time() -> None:
    network = declare_unchanged(Network(nn.Linear(2, 3), {}, (1, 1, 2)))
    assert sizes(network.module, 1) == [6, 3]
    other = copy.deepcopy(network)
    other.module = nn.Linear(4, 1)
    changed = copy.deepcopy(network.module)
    changed.bias = None
    assert (sizes(other.module, 1), sizes(changed, 1), sizes(network.module, 1)) == ([4, 1], [6], [6, 3])
