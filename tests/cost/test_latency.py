"""Times that order as the work does, with what they were measured under."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from paredown.core.errors import UserError
from paredown.cost import latency
from paredown.cost.latency import LatencySettings

CPU = torch.device("cpu")
SHAPE = (3, 4, 4)


class Sleeping(nn.Module):
    """Takes a known time."""

    def __init__(self, seconds: float, log: list[float] | None = None) -> None:
        super().__init__()
        self.seconds, self.log = seconds, log

    def forward(self, images: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        if self.log is not None:
            self.log.append(self.seconds)
        time.sleep(self.seconds)
        return images


def measure(own: nn.Module, dense: nn.Module, shape: tuple[int, ...] = SHAPE, **settings: float) -> latency.Latency:
    asked = LatencySettings(**settings)
    images = torch.randn(asked.batch, *shape)
    return latency.measure((own, images), (dense, images), asked)


def test_known_times_come_out():
    timed = measure(Sleeping(0.01), Sleeping(0.04), seconds=0)
    assert 10 <= timed.ms < 30 and 40 <= timed.dense_ms < 80  # sleeping never takes less
    assert 1.5 < timed.speed_up_low <= timed.speed_up <= timed.speed_up_high < 4.5


def test_freed_memory_is_kept_before_anything_is_timed(monkeypatch):
    events: list[str] = []
    monkeypatch.setattr(latency, "keep_freed", lambda: events.append("kept"))
    latency.timed(lambda: events.append("ran"), CPU)
    assert events == ["kept", "ran"]


def test_the_two_take_turns_after_warming_up():
    log: list[float] = []
    timed = measure(Sleeping(0.001, log), Sleeping(0.002, log), seconds=0)
    assert log == [0.001, 0.002] * (latency.WARM_UP_TURNS + timed.turns)
    assert timed.turns == latency.MIN_TURNS


def test_the_budget_sets_the_turns():
    started = time.perf_counter()
    timed = measure(Sleeping(0.002), Sleeping(0.002), seconds=0.3)
    assert 0.3 < time.perf_counter() - started < 3
    assert latency.MIN_TURNS < timed.turns <= 75


def test_what_it_was_measured_under_is_recorded_and_threads_come_back():
    before = torch.get_num_threads()
    seen: list[int] = []

    class Watching(Sleeping):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            assert len(images) == 7
            return images

    timed = measure(Watching(0), Watching(0), batch=7, threads=before + 1, seconds=0)
    assert set(seen) == {before + 1} and torch.get_num_threads() == before
    assert (timed.batch, timed.threads, timed.device) == (7, before + 1, latency.device_name(CPU))
    names = {"ms", "dense_ms", "speed_up", "speed_up_low", "speed_up_high", "batch", "threads", "turns"}
    assert set(timed.metrics()) == {f"latency/{name}" for name in names}


def test_threads_come_back_after_a_failure():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError):
        measure(nn.Conv2d(5, 5, 3), nn.Identity(), threads=before + 1)
    assert torch.get_num_threads() == before


def test_the_speed_up_is_the_median_of_the_turns_ratios(monkeypatch):
    """Not the ratio of the medians, 1.1, which a machine that slows down in the middle changes."""
    turns = [(1.0, 2.0), (2.0, 2.0), (10.0, 30.0), (1.0, 4.0), (2.0, 2.2)]
    monkeypatch.setattr(latency, "in_turns", lambda pairs, seconds: turns)
    timed = measure(nn.Identity(), nn.Identity())
    assert (timed.ms, timed.dense_ms, timed.speed_up) == (2000, 2200, 2)
    ratios = sorted(dense / own for own, dense in turns)
    assert timed.speed_up == ratios[2] != timed.dense_ms / timed.ms
    assert timed.speed_up_low < timed.speed_up < timed.speed_up_high


def test_more_work_takes_longer():
    small, large = nn.Conv2d(16, 16, 3), nn.Sequential(*(nn.Conv2d(16, 16, 3, padding=1) for _ in range(20)))
    timed = measure(small, large, (16, 32, 32), batch=4, threads=1, seconds=0.2)
    assert timed.speed_up > 4


def test_this_processor_has_a_name():
    assert len(latency.device_name(CPU)) > 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch": 0}, r"latency\.batch=0 \(at least 1: it is the number of images timed at once\)"),
        ({"threads": 0}, r"latency\.threads=0 \(1 to 1024, or null\)"),
        ({"seconds": -1}, r"latency\.seconds=-1 \(at least 0\)"),
        ({"seconds": float("nan")}, r"latency\.seconds=nan"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        LatencySettings(**settings)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", "Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz"),
        ("AMD EPYC", "AMD EPYC (family 26, model 2, stepping 1)"),
        ("Intel(R) Xeon(R) CPU @ 2.20GHz", "Intel(R) Xeon(R) CPU @ 2.20GHz (family 26, model 2, stepping 1)"),
        ("QEMU Virtual CPU version 2.5+", "QEMU Virtual CPU version 2.5+ (family 26, model 2, stepping 1)"),
        ("", ""),
    ],
)
def test_a_processor_without_a_number_is_told_by_its_family_and_model(name: str, expected: str) -> None:
    one = f"processor\t: 0\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: {name}\nstepping\t: 1\n"
    assert latency._model_name(f"{one}\n{one}") == expected


def test_a_cpuinfo_without_model_names_names_no_processor() -> None:
    assert latency._model_name("processor\t: 0\nBogoMIPS\t: 48.00\n") == ""
