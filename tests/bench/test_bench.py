"""The bench's statistics against closed forms, its eyes for a busy machine, and a whole small one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import binom

from paredown.bench import record
from paredown.bench.measure import bench, median_interval
from paredown.bench.quiet import Quiet, Watch
from paredown.bench.record import metrics, write
from paredown.bench.request import Request, parse
from paredown.bench.subject import subject
from paredown.bench.terminal import words
from paredown.cost import count


def test_the_interval_of_a_median_is_the_binomial_one() -> None:
    """Of 100 ordered values the 40th to the 61st: outside of them a median lies with probability 5 %."""
    middle, low, high = median_interval([float(value) for value in range(100)])
    assert (middle, low, high) == (49.5, 40, 60)
    assert binom.cdf(low - 1, 100, 0.5) + binom.sf(high, 100, 0.5) < 0.05
    assert median_interval([3.0]) == (3, 3, 3)


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    draw = np.random.default_rng(0)
    found = [median_interval(list(draw.exponential(size=41))) for _ in range(500)]
    assert np.mean([low <= np.log(2) <= high for _, low, high in found]) > 0.93


def test_a_busy_machine_is_seen() -> None:
    watch = Watch()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.7)
        assert watch.others() > 0.3
    finally:
        busy.kill()
        busy.wait()
    assert not Quiet(others=0.3, load=1.0, spread=0.0).quiet
    assert not Quiet(others=0.0, load=0.0, spread=0.04).quiet
    assert Quiet(others=0.01, load=0.0, spread=0.02).quiet


def request(folder: Path, *more: str) -> Request:
    small = ["model=resnet20", "model.depth=8", "dataset=digits", "batch=1,2", "deploy=plain", "device=cpu"]
    return parse([*small, "seconds=0", "rounds=2", f"output={folder}", *more])


def test_a_network_is_made_without_its_training_or_its_images(tmp_path: Path) -> None:
    asked = request(tmp_path, "method=ssc", "sparsity=0.8", f"dataset.root={tmp_path}/nowhere")
    found = subject(asked)
    weights = [count(network.module, network.input_shape).weights for network in (found.network, found.dense)]
    assert 1 - weights[0] / weights[1] == pytest.approx(0.8, abs=0.02)


def test_a_whole_bench(tmp_path: Path) -> None:
    """Both networks at both batch sizes, every layer, figures that hold the numbers, and a word on the machine."""
    asked = request(tmp_path, "method=ssc", "sparsity=0.8")
    timed = subject(asked)
    found = bench(asked, timed)
    assert [batch.batch for batch in found.batches] == [1, 2] and found.deploy == "plain"
    for batch in found.batches:
        assert {time.network for time in batch.times} == {"dense", "deployed"} and batch.turns >= 10
        assert all(time.low <= time.ms <= time.high for time in batch.times)
        equal = next(one for one in batch.speed_ups if (one.dense, one.deployed) == ("fp32", "fp32"))
        assert len(equal.rounds) == 2 and equal.low <= equal.value <= equal.high
    layers = {row["layer"]: row for row in found.layers}
    assert set(layers) == {layer.name for layer in count(timed.dense.module, (1, 8, 8)).layers}
    assert all(row["ms"] > 0 and row["dense_ms"] > 0 for row in layers.values())
    data, page = write(found, tmp_path / "bench")
    assert '"speed_ups"' in data.read_text() and "deployed fp32" in page.read_text()
    assert metrics(found).keys() >= {"bench/speed_up_b1", "bench/ms_b2", "bench/dense_ms_b2"}
    assert words(found)[-1].startswith(("quiet machine", "NOT a quiet machine"))


def test_the_conditions_of_each_batch_are_recorded_with_its_times(monkeypatch) -> None:
    found: dict[str, str] = {}
    client = SimpleNamespace(set_tag=lambda run, name, text: found.update({name: text}))
    monkeypatch.setattr(record, "connect", lambda uri: client)
    batches = [SimpleNamespace(batch=number, speed_ups=[], times=[]) for number in (1, 32)]
    loud = Quiet(others=0.3, load=1.0, spread=0.0)
    timed = SimpleNamespace(batches=batches, threads=2, deploy="plain", device="a CPU", quiet=loud)
    of = SimpleNamespace(trained=SimpleNamespace(uri="http://host:1", run_id="1"))
    assert record.record(timed, [], of)
    assert found == {
        **dict.fromkeys(("bench/conditions_b1", "bench/conditions_b32"), "threads=2 deploy=plain on a CPU"),
        **dict.fromkeys(("bench/quiet_b1", "bench/quiet_b32"), "False"),
    }
