"""A trial on several workers of one node: torchrun beneath the actor, dead when the actor is."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn, TextIO

from torch import distributed as dist

from paredown import distributed
from paredown.sweep.work import Report, WorkerDied, first_line, run_here

PATIENCE = 10.0  # seconds that processes get to end in order
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
# What torchrun says: which rank ended by which signal, and which signals it sent itself
ENDED = re.compile(r"rank +: (\d+) \(local_rank.*\n +exitcode +: -(\d+) \(pid: (\d+)\)")
SENT = re.compile(r"Sending process (\d+) closing signal (\w+)")
FORCED = re.compile(r"Unable to shutdown process (\d+) via")
TOLD_TO_END = re.compile(r"SignalException: Process \d+ got signal: (\d+)")


def run(given: dict[str, Any], report: Report) -> None:
    """Run the specification `given` in as many processes as it asks for.

    Raises RuntimeError with what a rank raised, and WorkerDied where one was killed.
    """
    with tempfile.TemporaryDirectory(prefix="paredown-ranks-") as folder:
        place = Path(folder)
        (place / "work.json").write_text(json.dumps(given))
        (place / "reports").touch()
        devices = given["config"]["trainer"]["devices"]
        command = [*distributed.torchrun(devices), "-m", "paredown.sweep.ranks", folder]
        environment = {"OMP_NUM_THREADS": str(given["config"]["trainer"]["threads"]), "TORCH_CPP_LOG_LEVEL": "ERROR"}
        environment["LOGLEVEL"] = "WARNING"  # torchrun's, which says whom it ends
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
            _fail(place, process.returncode)


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


def _fail(place: Path, code: int) -> NoReturn:
    """Say why torchrun ended with `code`: a rank that was killed makes the others raise errors of their connection, and
    one that raises makes torchrun end the others, so neither what is raised nor how a rank ends tells it alone."""
    log = (place / "log").read_text()
    errors = sorted((json.loads(path.read_text()) for path in place.glob("error-*")), key=lambda error: error["time"])
    own = [error for error in errors if not error["connection"]]
    blow = -code if code < 0 else int(found[1]) if (found := TOLD_TO_END.search(log)) else 0
    if blow:
        raise WorkerDied(f"torchrun ended by {_name(blow)}")
    for number, blow in killed(log).items():
        # NCCL's watchdog aborts a process whose peer has gone; and one that raised may still crash on its way out
        if not (own and blow == signal.SIGABRT) and number not in {error["rank"] for error in own}:
            raise WorkerDied(f"rank {number} ended by {_name(blow)}")
    raise RuntimeError([*own, *errors][0]["line"] if errors else _last_words(log, code))


def killed(log: str) -> dict[int, int]:
    """The ranks that ended by a signal, and which; not those whose signal torchrun, whose `log` this is, had sent."""
    sent = {(pid, int(signal.Signals[name])) for pid, name in SENT.findall(log)}
    sent |= {(pid, int(signal.SIGKILL)) for pid in FORCED.findall(log)}
    ended = ((int(number), int(blow), pid) for number, blow, pid in ENDED.findall(log))
    return {number: blow for number, blow, pid in ended if (pid, blow) not in sent}


def _name(blow: int) -> str:
    return signal.Signals(blow).name if blow in set(signal.Signals) else f"signal {blow}"


def _last_words(log: str, code: int) -> str:
    lines = [line.strip() for line in log.splitlines()]
    errors = [line for line in lines if "Error: " in line and "ChildFailedError" not in line]
    return errors[0] if errors else f"the processes ended with exit code {code}"


def main(folder: str) -> None:
    """One rank: the work of `folder`, its reports appended there by rank 0."""
    die_with_parent(signal.SIGKILL)
    given = json.loads((Path(folder) / "work.json").read_text())

    def report(values: dict[str, Any]) -> None:
        if not distributed.rank():
            with (Path(folder) / "reports").open("a") as file:
                file.write(json.dumps(values) + "\n")

    def work() -> None:
        distributed.join()
        run_here(given, report)

    try:
        with ThreadPoolExecutor(1) as thread:  # in the main thread Lightning would take SIGTERM, and wait for its peers
            thread.submit(work).result()
    except Exception as error:
        connection = isinstance(error, dist.DistError) or "gloo" in str(error)
        said = {"rank": distributed.rank(), "line": first_line(error), "connection": connection, "time": time.time()}
        half = Path(folder) / f"half-{distributed.rank()}"
        half.write_text(json.dumps(said))
        half.rename(half.with_name(f"error-{distributed.rank()}"))  # whole or not: torchrun may end us any moment
        raise


if __name__ == "__main__":
    main(sys.argv[1])
