"""`precision=auto` is what a step of the network takes on this machine, once for all that share an output."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from paredown.core.config import compose
from paredown.core.files import user_cache
from paredown.core.recipe import Precision
from paredown.experiment.experiment import Experiment
from paredown.experiment.prepare import prepare
from paredown.run import walk
from paredown.store.states import Store, open_store
from paredown.sweep.planning import plan
from paredown.sweep.spec import Resources, Sweep
from paredown.sweep.worker import trial_spec
from paredown.training import bf16, decisions, machine, precision, timed_step
from paredown.training.decisions import Decision, begin
from paredown.training.precision import PRECISION, decide
from paredown.training.timed_step import Step

CPU = torch.device("cpu")
RESNET = {"_target_": "paredown.models.cifar.resnet.cifar_resnet", "depth": 8, "in_channels": 1}
STEP = Step.of(RESNET, (1, 8, 8), 16, channels_last=True)
SMALL = ["dataset=digits", "model=resnet20", "model.depth=8", "dataset.fraction=0.1", "recipe.epochs=1"]
SMALL += ["latency.seconds=0", "tracking=off", "trainer.progress=false"]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder of the user, and nothing known to this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(timed_step, "TIMED", {})
    decisions._tell.cache_clear()
    return user_cache()


@pytest.fixture
def bf16_units(monkeypatch) -> None:
    for module in (bf16, machine, precision):
        monkeypatch.setattr(module, "has_bf16_units", lambda device: True)


@pytest.fixture
def store(tmp_path) -> Store:
    return open_store(tmp_path / "store")


def seconds(path: Path, fp32: float, bf16: float) -> None:
    """Write into the file of a measurement that the two took so long."""
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"seconds": {"32": fp32, "bf16": bf16}}))


def made(value: Precision, why: str) -> Decision[Precision]:
    return Decision(PRECISION, STEP.record("precision"), value, why)


def decided(store: Store, step: Step = STEP) -> Decision[Precision]:
    """What another process would decide."""
    timed_step.TIMED.clear()
    return decide(step, CPU, 1, store)


def test_no_instructions_no_measurement(store, cache, monkeypatch, caplog) -> None:
    monkeypatch.setattr(precision, "has_bf16_units", lambda device: False)
    monkeypatch.setattr(precision, "measure", lambda *_: pytest.fail("it cannot win"))
    with caplog.at_level(logging.INFO, "paredown"):
        found = decide(STEP, CPU, 1, store)
        assert not caplog.text  # not before the experiment begins: a mistake elsewhere is to be one line
        assert begin(found, store) == begin(found, store) == "32"
    assert caplog.text.count("fp32: ") == 1 and "has no bf16 instructions" in caplog.text  # said once
    assert not cache.exists()


FASTER = [(0.3, 0.2, "bf16"), (0.2, 0.3, "32"), (0.2, 0.195, "32")]


@pytest.mark.parametrize(("fp32", "bf16", "expected"), FASTER)
def test_what_is_faster_is_taken_and_both_times_are_told(
    fp32, bf16, expected, bf16_units, store, cache, caplog
) -> None:
    """As kept by an earlier process; bf16 by a hair is not worth its rounding."""
    decided(store)
    (path,) = cache.glob("precision-*.json")
    seconds(path, fp32, bf16)
    decisions._tell.cache_clear()
    with caplog.at_level(logging.INFO, "paredown"):
        found = decided(store)
        assert begin(found, store) == found.value == expected
    assert f"{1e3 * fp32:.1f} ms in fp32 and {1e3 * bf16:.1f} ms in bf16" in caplog.text
    assert "cifar_resnet on 16 images of 1x8x8" in caplog.text and ", 1 threads)" in caplog.text


def test_an_output_s_decision_is_named_by_what_makes_keys() -> None:
    """The layout of the images, and an argument at its default, are no part of a fit's key."""
    assert Step.of(RESNET, (1, 8, 8), 16, channels_last=False).record("it") == STEP.record("it")
    assert Step.of(RESNET | {"block": "basic"}, (1, 8, 8), 16, channels_last=True).record("it") == STEP.record("it")
    assert Step.of(RESNET | {"depth": 14}, (1, 8, 8), 16, channels_last=True).record("it") != STEP.record("it")


def test_a_step_is_timed_once_for_each_network_batch_and_machine(bf16_units, store, cache, monkeypatch) -> None:
    calls = []
    monkeypatch.setattr(precision, "measure", lambda step, device: (calls.append(step), {"32": 2.0, "bf16": 1.0})[1])
    for _ in range(2):
        assert decided(store).value == "bf16" and len(calls) == 1
    other = Step.of(RESNET | {"depth": 14}, (1, 8, 8), 16, channels_last=True)
    decided(store, other)
    decided(store, Step.of(RESNET, (1, 8, 8), 32, channels_last=True))
    decide(STEP, CPU, 2, store)
    assert len(calls) == 4
    monkeypatch.setattr(timed_step, "device_name", lambda device: "another processor")
    decided(store)
    assert len(calls) == 5 and len(list(cache.glob("*.json"))) == 5


@pytest.mark.parametrize("damage", ["", "[]", '{"of": {}, "seconds": {"32": 1, "bf16": 0.1}}', "null"])
def test_a_damaged_cache_is_ignored_with_a_line(damage, bf16_units, store, cache, caplog) -> None:
    decided(store)
    (path,) = cache.glob("precision-*.json")
    whole = json.loads(path.read_text())
    for content in (damage, json.dumps(whole | {"seconds": {"32": -1, "bf16": float("nan")}})):
        path.write_text(content)
        caplog.clear()
        decided(store)
        assert "is damaged or of something else, and ignored" in caplog.text
        assert json.loads(path.read_text())["of"] == whole["of"]  # written anew


def test_a_cache_that_cannot_be_written_is_said_and_one_process_decides_once(
    bf16_units, store, tmp_path, monkeypatch, caplog
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    calls = []
    monkeypatch.setattr(precision, "measure", lambda *_: (calls.append(1), {"32": 2.0, "bf16": 1.0})[1])
    with caplog.at_level(logging.INFO, "paredown"):
        assert decide(STEP, CPU, 1, store).value == decide(STEP, CPU, 1, store).value == "bf16"
    assert len(calls) == 1 and "the next process times it again" in caplog.text


def test_a_step_that_cannot_run_says_so(bf16_units, store, monkeypatch) -> None:
    def fails(*_):
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(precision, "measure", fails)
    found = decided(store)
    assert found.value == "32" and found.why.endswith("cannot be timed (out of memory)")


def test_a_step_trains_in_both_precisions_and_draws_nothing(bf16_units, monkeypatch) -> None:
    seen = []
    real = torch.autocast

    def autocast(kind: str, dtype: torch.dtype, enabled: bool):
        seen.append((kind, dtype, enabled))
        return real(kind, dtype, enabled=enabled)

    monkeypatch.setattr(torch, "autocast", autocast)
    before = torch.get_rng_state()
    times = precision.measure(STEP, CPU)
    assert times.keys() == {"32", "bf16"} and min(times.values()) > 0 and torch.equal(before, torch.get_rng_state())
    assert seen == [("cpu", torch.bfloat16, False), ("cpu", torch.bfloat16, True)] * (1 + timed_step.REPEATS)


def test_the_two_take_turns_and_medians_count(monkeypatch) -> None:
    took = iter([1.0, 5.0, 9.0, 6.0, 2.0, 50.0])
    calls: list[str] = []
    monkeypatch.setattr(timed_step, "timed", lambda run, device: (run(), next(took))[1])
    runs: dict[str, Callable[[], None]] = {one: lambda one=one: calls.append(one) for one in ("32", "bf16")}
    assert timed_step.in_turns(runs, CPU) == {"32": 2.0, "bf16": 6.0}  # type: ignore[arg-type]
    assert calls == ["32", "bf16"] * 4
    monkeypatch.setattr(timed_step, "SECONDS", -1)
    monkeypatch.setattr(timed_step, "timed", lambda run, device: 1.0)
    assert timed_step.in_turns(runs, CPU) == {"32": 1.0, "bf16": 1.0}  # type: ignore[arg-type]


def test_large_images_make_a_short_step_and_batch_norm_gets_two() -> None:
    assert Step.of(RESNET, (3, 224, 224), 256, channels_last=True).images == 20
    assert Step.of(RESNET, (3, 32, 32), 128, channels_last=True).images == 128
    assert Step.of(RESNET, (3, 32, 32), 1, channels_last=True).images == 2


def test_the_first_of_several_processes_decides(store) -> None:
    assert begin(made("bf16", "timed"), store) == "bf16"
    assert begin(made("32", "timed on another node"), store) == "bf16"
    assert decided(store).why == "bf16, as this output has begun (timed)"  # whatever this machine is good at
    other = open_store(store.root.parent / "elsewhere")
    assert begin(made("32", "timed"), other) == "32"


@pytest.mark.parametrize("damage", ["", "{}", '{"precision": "64"}', "[1]", "[" * 100_000], ids=str.__len__)
def test_a_damaged_record_of_an_output_is_no_decision(damage, store, caplog) -> None:
    begin(made("bf16", "timed"), store)
    (path,) = (store.root / "decisions").glob("precision-*.json")
    path.write_text(damage)
    assert "as this output" not in decided(store).why and f"{path} is damaged and ignored: delete it" in caplog.text
    assert begin(made("32", "timed"), store) == "32"


def experiment(output: Path, *more: str) -> Experiment:
    return prepare(compose([*SMALL, f"output={output}", *more]))


def test_an_output_goes_on_as_it_began_on_another_machine(tmp_path, bf16_units, monkeypatch) -> None:
    times = {"32": 2.0, "bf16": 1.0}
    monkeypatch.setattr(precision, "measure", lambda *_: times)
    assert experiment(tmp_path).recipe.precision == "bf16"
    assert not (tmp_path / "store" / "decisions").exists()  # a look at the plan begins nothing
    first = walk.run([*SMALL, f"output={tmp_path}"])
    times = {"32": 1.0, "bf16": 2.0}
    timed_step.TIMED.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "of another node"))
    again = walk.run([*SMALL, f"output={tmp_path}"])
    assert again.reused and again.state == first.state
    ssc = experiment(tmp_path, "method=ssc", "sparsity=0.8")
    assert ssc.recipe.precision == "bf16" and ssc.dense_key == experiment(tmp_path).steps[-1].key  # one reference
    assert experiment(tmp_path / "new").recipe.precision == "32"
    assert experiment(tmp_path, "recipe.precision=32").recipe.precision == "32"  # asked for


def test_the_driver_of_a_sweep_decides_for_its_workers(tmp_path, bf16_units, monkeypatch) -> None:
    monkeypatch.setattr(precision, "measure", lambda *_: {"32": 2.0, "bf16": 1.0})
    words = (*SMALL, f"output={tmp_path}", "trainer.accelerator=cpu")
    sweep = Sweep("mine", overrides=words, grid={"method": ("dense", "f_group")})
    planned = plan(sweep)
    (line,) = planned.precisions
    assert line.startswith("bf16: a training step of cifar_resnet on 64 images of 1x8x8 takes 2000.0 ms in fp32")
    for module in (machine, precision):  # the workers' processors
        monkeypatch.setattr(module, "has_bf16_units", lambda device: False)
    for one in planned.experiments:
        spec = trial_spec(one, Resources(), "me")
        assert spec["config"]["recipe"]["precision"] == "bf16" and prepare(spec["config"]).key == spec["key"]
    assert plan(sweep).precisions == (f"bf16, as this output has begun ({line})",)


TORCHRUN = """
import json, os, sys
from paredown.core import distributed
from paredown.training import machine, precision
rank = int(os.environ["RANK"])
precision.has_bf16_units = lambda device: True
precision.measure = lambda *_: {"32": 1.0, "bf16": 0.5 if rank == 0 else 2.0}
from paredown.core.config import compose
from paredown.experiment.prepare import prepare
made = prepare(compose(sys.argv[2:])).begun()
open(f"{sys.argv[1]}/{rank}.json", "w").write(json.dumps([made.recipe.precision, made.steps[-1].key]))
distributed.exit_rank()
"""


@pytest.mark.slow
def test_ranks_agree_with_the_first(tmp_path) -> None:
    """Started by torchrun on nodes of two kinds, each with a cache of its own."""
    script = tmp_path / "ranks.py"
    script.write_text(TORCHRUN)
    words = [*SMALL, f"output={tmp_path}", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    subprocess.run([*command, str(script), str(tmp_path), *words], check=True, timeout=300)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found[0] == found[1] and found[0][0] == "bf16"
