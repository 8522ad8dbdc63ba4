"""A network of fewer channels is timed in turns with the whole one, and what it cannot reach is refused."""

from __future__ import annotations

import pytest
import torch

from paredown.core import blueprint
from paredown.core.errors import UserError
from paredown.core.network import Network
from paredown.core.target import Target, Timing
from paredown.runtime import width_clock
from paredown.runtime.width_clock import WidthClock, require_latency
from paredown.surgery.width_budget import scoped


def resnet() -> Network:
    torch.manual_seed(0)
    architecture = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "width": 2}
    return blueprint.create(architecture, (3, 32, 32))


def test_an_eighth_of_the_channels_is_faster_and_all_of_them_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(width_clock, "SECONDS", 0.2)
    network = resnet()
    groups = scoped(network)
    clock = WidthClock(network, groups, Timing(16, 1))
    assert clock.speed_up({g.name: g.size // 8 for g in groups}) > 1.5
    assert 0.6 < clock.speed_up({g.name: g.size for g in groups}) < 1.6
    assert not network.blueprint


def test_out_of_reach_is_said_once_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    network = resnet()
    groups = scoped(network)
    asked: list[object] = []

    def speed_up(self: WidthClock, widths: object) -> float:
        asked.append(widths)
        return 3.0

    monkeypatch.setattr(WidthClock, "speed_up", speed_up)
    fewest = {g.name: 1 for g in groups}
    require_latency(network, groups, Target("latency_speed_up", 2.5, Timing(16, 1)), fewest)
    with pytest.raises(UserError, match=r"latency_speed_up=4 is out of reach on this machine: the fewest .* 3x"):
        require_latency(network, groups, Target("latency_speed_up", 4.0, Timing(16, 1)), fewest)
    assert asked == [fewest]
