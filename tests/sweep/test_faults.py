"""Faults injected into real sweeps: nothing finished is lost, nothing is trained twice, no run stays open."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
from driving import EPOCHS, LONG, Driver, alive, children, epochs_recorded, fits, rank_processes, runs, starts
from steps import words

pytestmark = pytest.mark.slow
SEEDS = "seeds: [0, 1, 2, 3]\n"


def test_a_worker_killed_goes_on_at_its_checkpoint(written) -> None:
    sweep = Driver([*written(SEEDS), *LONG])
    sweep.until(lambda: sweep.checkpoints() and sweep.workers())
    os.kill(sweep.workers()[0], signal.SIGKILL)
    sweep.wait()
    database = sweep.output / "mlflow.db"
    assert len(sweep.results()) == 4 and sorted(starts(sweep.output))[:3] == [1, 1, 1]
    assert runs(database) == {"experiment FINISHED": 4, "sweep FINISHED": 1} and children(database) == 4
    assert epochs_recorded(database) == [EPOCHS] * 4 and fits(sweep.output) == 4


def test_what_raises_diverges_or_keeps_dying_is_named_and_the_others_go_on(written) -> None:
    text = words([0.1, 1e30, 0.5], [0.1, 2.0, -9.0])
    sweep = Driver([*written(text), "retries=1"])
    said = sweep.wait(code=1)
    database = sweep.output / "mlflow.db"
    assert len(sweep.results()) == 2  # of decays 0.1 and 0.5 the sound energy
    assert (
        said.count("no energy is above 1, not even 2.0") >= 2 and said.count("its process died; The actor is dead") >= 2
    )
    assert said.count("training diverged") >= 3
    assert not [status for status in runs(database) if "RUNNING" in status]
    assert runs(database)["sweep FINISHED"] == 1 and runs(database)["experiment FINISHED"] == 2


def test_a_rank_killed_goes_on_at_its_checkpoint(written) -> None:
    sweep = Driver([*written("seeds: [0]\n"), *LONG, "resources.workers=2"])
    sweep.until(sweep.checkpoints)
    os.kill(rank_processes(sweep.process.pid)[1], signal.SIGKILL)
    said = sweep.wait()
    database = sweep.output / "mlflow.db"
    assert said.count("retrying: ") == said.count("its process died; ") == 1 and "rank 1 ended by SIGKILL" in said
    assert len(sweep.results()) == 1 and starts(sweep.output) == [2] and "epoch 1/" not in said.split("retrying: ")[1]
    assert runs(database) == {"experiment FINISHED": 1, "sweep FINISHED": 1}
    assert epochs_recorded(database) == [EPOCHS] and fits(sweep.output) == 1


def test_what_a_rank_raises_is_named_and_not_tried_again(written) -> None:
    sweep = Driver([*written(words([0.1], [0.1, 2.0])), "resources.workers=2"])
    said = sweep.wait(code=1)
    assert "failed: +method.energy=2.0: RuntimeError: ValueError: no energy is above 1, not even 2.0" in said
    assert "retrying: " not in said and "1 of 2 experiments done" in said and starts(sweep.output) == [1, 1]
    assert runs(sweep.output / "mlflow.db") == {"experiment FINISHED": 1, "experiment FAILED": 1, "sweep FINISHED": 1}


def test_out_of_memory_is_named_and_does_not_count_against_a_neighbour(written, monkeypatch) -> None:
    utils = pytest.importorskip("ray._private.utils")
    used, total = utils.get_used_memory(), utils.get_system_memory()
    # more than another process of the test run takes beside it: that must not kill what is to go on
    if total - used < 13 * 2**30:
        pytest.skip("needs 13 GiB of free memory, to take 9 of them")
    monkeypatch.setenv("RAY_memory_usage_threshold", str((used + 9 * 2**30) / total))
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    sweep = Driver([*written(words([0.1], [0.1, 1, 0.3])), "recipe.epochs=10", "retries=1"])
    said = sweep.wait(code=1)
    assert said.count("failed: ") == said.count("failed: +method.energy=1: its process died; out of memory") == 2
    assert "retrying: +method.energy=1: its process died; out of memory" in said
    assert "2 of 3 experiments done" in said and "Traceback" not in said
    assert runs(sweep.output / "mlflow.db") == {"experiment FINISHED": 2, "experiment FAILED": 1, "sweep FINISHED": 1}


def test_a_killed_driver_is_resumed_by_the_same_command(written) -> None:
    arguments = [*written(SEEDS), *LONG]
    sweep = Driver(arguments)
    sweep.until(lambda: sweep.results() and sweep.checkpoints())
    workers = sweep.workers()
    sweep.send(signal.SIGKILL)
    sweep.process.wait()
    wait_for_the_end(workers)
    done = len(sweep.results())
    again = Driver(arguments)
    assert f"{done} of them before" in again.wait()
    database = sweep.output / "mlflow.db"
    assert runs(database) == {"experiment FINISHED": 4, "sweep FINISHED": 1} and children(database) == 4
    assert epochs_recorded(database) == [EPOCHS] * 4
    assert starts(sweep.output).count(1) >= 2  # what was in flight, two at most, was begun again


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_says_the_command_and_resumes(written, signum) -> None:
    arguments = [*written(SEEDS), *LONG]
    sweep = Driver(arguments)
    sweep.until(sweep.checkpoints)
    workers = sweep.workers()
    sweep.send(signum)
    said = sweep.wait(code=130)
    assert said.strip().splitlines()[-1].startswith("paredown: interrupted; the same command goes on:")
    wait_for_the_end(workers)
    database = sweep.output / "mlflow.db"
    assert runs(database)["sweep KILLED"] == 1 and not [status for status in runs(database) if "RUNNING" in status]
    if signum is signal.SIGTERM:
        return  # from here on it is the same
    Driver(arguments).wait()
    assert runs(database) == {"experiment FINISHED": 4, "sweep FINISHED": 1}
    assert epochs_recorded(database) == [EPOCHS] * 4


def test_two_sweeps_at_once_on_one_store_train_once(written) -> None:
    text, more = words([0.1], [0.1, 0.2]), ["recipe.epochs=40"]
    both = [Driver([*written(text, name), *more]) for name in ("one", "two")]
    said = [sweep.wait() for sweep in both]
    assert fits(both[0].output) == 4  # full_rank, sparsify, and a finetune each
    trained = [int(text.split(" trainings")[0].split()[-1]) for text in said]
    assert sum(trained) == 4
    database = both[0].output / "mlflow.db"
    assert runs(database) == {"experiment FINISHED": 2, "sweep FINISHED": 2}


def test_the_same_sweep_twice_is_refused(written) -> None:
    arguments = [*written(SEEDS), "recipe.epochs=1000"]
    first = Driver(arguments)
    first.until(lambda: list(first.output.glob("sweeps/*/tracking/journal.jsonl")))
    assert "sweep tiny is running already" in Driver(arguments).wait(code=2)
    first.send(signal.SIGINT)
    first.wait(code=130)


def test_a_full_disk_fails_by_name_and_the_sweep_resumes(written, tmp_path) -> None:
    arguments = written(SEEDS)
    output = tmp_path / "out"
    output.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(output)]
    if subprocess.run(mounted, check=False, capture_output=True).returncode:
        pytest.skip("needs the right to mount")
    try:
        Driver([*arguments, "tracking=off"]).wait(code=1)
        said = max(tmp_path.glob("log-*")).read_text()
        assert "No space left on device" in said and "Traceback" not in said
        subprocess.run(["mount", "-o", "remount,size=100m", str(output)], check=True)
        again = Driver([*arguments, "tracking=off"])
        assert "4 of 4 experiments done" in again.wait() and fits(output) == 4
    finally:
        subprocess.run(["umount", str(output)], check=True)


def wait_for_the_end(processes: list[int]) -> None:
    until = time.monotonic() + 60
    while left := [pid for pid in processes if alive(pid)]:
        assert time.monotonic() < until, f"processes were left behind: {left}"
        time.sleep(0.1)
