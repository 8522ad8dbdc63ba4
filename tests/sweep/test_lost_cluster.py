"""A local Ray that loses a process which it cannot do without: the driver ends, and the same command goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest
from driving import Driver, alive, command_line, descendants, fits, runs

from paredown.sweep.watch import ClusterLost, dead, relax, watched


def sleeping() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])


def test_a_process_that_dies_ends_the_block_that_waits_for_it() -> None:
    process = sleeping()
    began = time.monotonic()
    with pytest.raises(ClusterLost, match=rf"^Ray's process raylet \(pid {process.pid}\) was killed by SIGKILL$"):  # noqa: SIM117
        with watched({"raylet": process}, str):
            process.kill()
            time.sleep(30)  # as Tune does
    assert time.monotonic() - began < 10
    relax()


def test_what_is_no_death_of_a_process_passes() -> None:
    process = sleeping()
    try:
        with pytest.raises(KeyboardInterrupt), watched({"raylet": process}, str):
            raise KeyboardInterrupt
        with pytest.raises(ValueError, match="other"), watched({"raylet": process}, str):
            raise ValueError("other")
        assert dead({"raylet": process}) is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("name", [b"raylet/raylet", b"gcs_server"])
def test_the_driver_ends_says_why_and_the_same_command_goes_on(written, name) -> None:
    arguments = [*written("seeds: [0, 1, 2, 3]\n"), "recipe.epochs=10", "trainer.checkpoint_seconds=0"]
    sweep = Driver(arguments)
    sweep.until(lambda: len(sweep.results()) >= 1)
    everything = descendants(sweep.process.pid)
    (process,) = (pid for pid in everything if name in command_line(pid).split(b"\0")[0])
    os.kill(process, signal.SIGKILL)
    began = time.monotonic()
    said = sweep.wait(code=1, seconds=90)
    assert time.monotonic() - began < 60
    line = said.strip().splitlines()[-1]
    done = re.search(r"was killed by SIGKILL; (\d) of 4 experiments are done and kept; the same command goes on", line)
    # a trial may store its result after the driver has counted, before its process ends
    assert done and 1 <= int(done[1]) <= len(sweep.results())
    assert line.startswith("paredown: Ray's process ") and "Traceback" not in said and "Raylet is" not in said
    until = time.monotonic() + 30
    while any(alive(pid) for pid in everything):
        assert time.monotonic() < until, [command_line(pid) for pid in everything if alive(pid)]
        time.sleep(0.2)
    assert not [status for status in runs(sweep.output / "mlflow.db") if "RUNNING" in status]
    again = Driver(arguments)
    assert "4 of 4 experiments done" in again.wait() and fits(again.output) == 4
    assert runs(again.output / "mlflow.db") == {"experiment FINISHED": 4, "sweep FINISHED": 1}
