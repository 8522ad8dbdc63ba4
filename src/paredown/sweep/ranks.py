"""A trial on several workers of one node: torchrun beneath the actor, dead when the actor is."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from paredown import distributed
from paredown.sweep.work import Report, run_here

PATIENCE = 10.0  # seconds that processes get to end in order
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


def run(given: dict[str, Any], report: Report) -> None:
    """Run the specification `given` in as many processes as it asks for; RuntimeError with their last words."""
    with tempfile.TemporaryDirectory(prefix="paredown-ranks-") as folder:
        place = Path(folder)
        (place / "work.json").write_text(json.dumps(given))
        (place / "reports").touch()
        devices = given["config"]["trainer"]["devices"]
        command = [*distributed.torchrun(devices), "-m", "paredown.sweep.ranks", folder]
        environment = {"OMP_NUM_THREADS": str(given["config"]["trainer"]["threads"]), "TORCH_CPP_LOG_LEVEL": "ERROR"}
        with (place / "log").open("w") as log:
            process = subprocess.Popen(
                command,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(signal.SIGTERM),  # noqa: PLW1509 (one system call) torchrun ends its ranks
            )
        try:
            with (place / "reports").open() as lines:
                for line in _follow(lines, process):
                    report(json.loads(line))
        finally:
            _end(process)
        if process.returncode:
            raise RuntimeError(_last_words(place / "log", process.returncode))


def die_with_parent(blow: signal.Signals) -> None:
    """Have the kernel send this process `blow` when its parent ends, however that ends."""
    LIBC.prctl(PR_SET_PDEATHSIG, blow)


def _follow(lines: TextIO, process: subprocess.Popen[bytes]) -> Iterator[str]:
    half = ""
    while True:
        ended = process.poll() is not None  # asked before reading: what was written until then is read
        while line := lines.readline():
            half += line
            if half.endswith("\n"):
                yield half
                half = ""
        if ended:
            return
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    for blow in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, blow)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                continue


def _last_words(log: Path, code: int) -> str:
    lines = [line.strip() for line in log.read_text().splitlines()]
    errors = [line for line in lines if "Error: " in line and "ChildFailedError" not in line]
    return errors[0] if errors else f"the processes ended with exit code {code}"


def main(folder: str) -> None:
    """One rank: the work of `folder`, its reports appended there by rank 0."""
    die_with_parent(signal.SIGKILL)
    given = json.loads((Path(folder) / "work.json").read_text())
    distributed.join()

    def report(values: dict[str, Any]) -> None:
        if not distributed.rank():
            with (Path(folder) / "reports").open("a") as file:
                file.write(json.dumps(values) + "\n")

    run_here(given, report)


if __name__ == "__main__":
    main(sys.argv[1])
