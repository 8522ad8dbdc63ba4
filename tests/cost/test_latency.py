"""Times that order as the work does, with what they were measured under."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from paredown.cost import latency
from paredown.errors import UserError

CPU = torch.device("cpu")
SHAPE = (3, 4, 4)


class Sleeping(nn.Module):
    """Takes a known time."""

    def __init__(self, seconds: float, log: list[float] | None = None) -> None:
        super().__init__()
        self.seconds, self.log = seconds, log

    def __deepcopy__(self, memo: object) -> Sleeping:
        return Sleeping(self.seconds, self.log)

    def forward(self, images: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled() and not self.training
        assert images.dtype == torch.float32 and images.is_contiguous(memory_format=torch.channels_last)
        if self.log is not None:
            self.log.append(self.seconds)
        time.sleep(self.seconds)
        return images


def test_known_times_come_out():
    timed = latency.measure(Sleeping(0.01), Sleeping(0.04), SHAPE, device=CPU, seconds=0)
    assert 10 <= timed.ms < 30 and 40 <= timed.dense_ms < 80  # sleeping never takes less
    assert 1.5 < timed.speed_up_low <= timed.speed_up <= timed.speed_up_high < 4.5


def test_the_two_take_turns_after_warming_up():
    log: list[float] = []
    timed = latency.measure(Sleeping(0.001, log), Sleeping(0.002, log), SHAPE, device=CPU, seconds=0)
    assert log == [0.001, 0.002] * (latency.WARM_UP + timed.turns)
    assert timed.turns == latency.FEWEST


def test_the_budget_sets_the_turns():
    started = time.perf_counter()
    timed = latency.measure(Sleeping(0.002), Sleeping(0.002), SHAPE, device=CPU, seconds=0.3)
    assert 0.3 < time.perf_counter() - started < 3
    assert latency.FEWEST < timed.turns <= 75


def test_what_it_was_measured_under_is_recorded_and_threads_come_back():
    before = torch.get_num_threads()
    seen: list[int] = []

    class Watching(Sleeping):
        def __deepcopy__(self, memo: object) -> Watching:
            return Watching(0)

        def forward(self, images: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            assert len(images) == 7
            return images

    timed = latency.measure(Watching(0), Watching(0), SHAPE, device=CPU, batch=7, threads=before + 1, seconds=0)
    assert set(seen) == {before + 1} and torch.get_num_threads() == before
    assert (timed.batch, timed.threads, timed.device) == (7, before + 1, latency.device_name(CPU))
    names = {"ms", "dense_ms", "speed_up", "speed_up_low", "speed_up_high", "batch", "threads", "turns"}
    assert set(timed.metrics()) == {f"latency/{name}" for name in names}


def test_threads_come_back_after_a_failure():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        latency.measure(nn.Conv2d(5, 5, 3), nn.Identity(), SHAPE, device=CPU, threads=before + 1)
    assert torch.get_num_threads() == before


def test_the_networks_stay_as_they_are():
    own, dense = nn.Conv2d(3, 5, 3).double().train(), nn.Conv2d(3, 5, 3).train()
    latency.measure(own, dense, SHAPE, device=CPU, batch=1, seconds=0)
    assert own.training and dense.training and own.weight.dtype == torch.float64
    assert own.weight.is_contiguous()


def test_more_work_takes_longer():
    small, large = nn.Conv2d(16, 16, 3), nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(20)))
    timed = latency.measure(small, large, (16, 32, 32), device=CPU, batch=4, threads=1, seconds=0.2)
    assert timed.speed_up > 4


def test_this_processor_has_a_name():
    assert len(latency.device_name(CPU)) > 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, r"latency\.batch=0 is below 1"),
        ({"threads": 0}, r"latency\.threads=0 is below 1.*null"),
        ({"seconds": -1}, r"latency\.seconds=-1 is below 0"),
        ({"seconds": float("nan")}, r"latency\.seconds=nan"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        latency.measure(nn.Identity(), nn.Identity(), SHAPE, device=CPU, **settings)
