"""A trial on several workers of one node: torchrun as a child of the actor, which it never outlives."""

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
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, TextIO

from torch import distributed as dist

from paredown.core import distributed
from paredown.sweep import in_process
from paredown.sweep.in_process import Report, WorkerDied, first_line

GRACE_SECONDS = 10.0  # that processes get to end after a signal
POLL_SECONDS = 0.2  # between two looks at the reports
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)
# Files of the temporary folder that torchrun's parent and the ranks share
SPEC, REPORTS, LOG = "spec.json", "reports", "log"
# torchrun's log: the ranks that a signal ended, the signals that torchrun sent, and one that torchrun received
ENDED = re.compile(r"rank +: (\d+) \(local_rank.*\n +exitcode +: -(\d+) \(pid: (\d+)\)")
SENT = re.compile(r"Sending process (\d+) closing signal (\w+)")
FORCED = re.compile(r"Unable to shutdown process (\d+) via")
RECEIVED = re.compile(r"SignalException: Process \d+ got signal: (\d+)")


def run(spec: dict[str, Any], report: Report) -> None:
    """Run the trial specification `spec` in as many processes as it asks for.

    Raise RuntimeError with the message of a rank's exception, and WorkerDied if a rank was killed.
    """
    with tempfile.TemporaryDirectory(prefix="paredown-ranks-") as name:
        folder = Path(name)
        (folder / SPEC).write_text(json.dumps(spec))
        (folder / REPORTS).touch()
        trainer = spec["config"]["trainer"]
        command = [*distributed.torchrun(trainer["devices"]), "-m", "paredown.sweep.multi_process", name]
        environment = {"OMP_NUM_THREADS": str(trainer["threads"]), "TORCH_CPP_LOG_LEVEL": "ERROR"}
        environment["LOGLEVEL"] = "WARNING"  # torchrun's, which logs the signals it sends
        with (folder / LOG).open("w") as log:
            process = subprocess.Popen(
                command,
                env=os.environ | environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(signal.SIGTERM),  # noqa: PLW1509 (one system call) torchrun ends its ranks
            )
        try:
            with (folder / REPORTS).open() as lines:
                for line in _follow(lines, process):
                    report(json.loads(line))
        finally:
            _end(process)
        if process.returncode:
            _raise_failure(folder, process.returncode)


def die_with_parent(signum: signal.Signals) -> None:
    """Ask the kernel to send `signum` to this process when its parent ends, for whatever reason."""
    LIBC.prctl(PR_SET_PDEATHSIG, signum)


def _follow(lines: TextIO, process: subprocess.Popen[bytes]) -> Iterator[str]:
    partial = ""
    while True:
        ended = process.poll() is not None  # before reading, so that everything written until then is read
        while line := lines.readline():
            partial += line
            if partial.endswith("\n"):
                yield partial
                partial = ""
        if ended:
            return
        time.sleep(POLL_SECONDS)


def _end(process: subprocess.Popen[bytes]) -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, signum)
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                continue


def _raise_failure(folder: Path, code: int) -> NoReturn:
    """Diagnose why torchrun ended with exit code `code`. A killed rank causes connection errors in the others, and a
    raising rank gets them terminated, so both exceptions and signals are needed."""
    log = (folder / LOG).read_text(errors="replace")
    errors = sorted(_said(folder), key=lambda error: error["time"])
    causes = [error for error in errors if not error["connection"]]
    signum = -code if code < 0 else int(found[1]) if (found := RECEIVED.search(log)) else 0
    if signum:
        raise WorkerDied(f"torchrun ended by {_signal_name(signum)}")
    for rank, signum in killed_ranks(log).items():
        # NCCL's watchdog aborts the peers of a rank that raised, and that rank may still crash on exit
        if not (causes and signum == signal.SIGABRT) and rank not in {error["rank"] for error in causes}:
            raise WorkerDied(f"rank {rank} ended by {_signal_name(signum)}")
    raise RuntimeError([*causes, *errors][0]["line"] if errors else _error_line(log, code))


def _said(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield what each rank said of its failure; one that was killed while it wrote said nothing."""
    for path in folder.glob("error-*"):
        with suppress(ValueError):
            yield json.loads(path.read_text())


def killed_ranks(log: str) -> dict[int, int]:
    """Return the signal that ended each killed rank, by rank, without the signals that torchrun sent; `log` is
    torchrun's."""
    sent = {(pid, int(signal.Signals[name])) for pid, name in SENT.findall(log)}
    sent |= {(pid, int(signal.SIGKILL)) for pid in FORCED.findall(log)}
    ended = ((int(rank), int(signum), pid) for rank, signum, pid in ENDED.findall(log))
    return {rank: signum for rank, signum, pid in ended if (pid, signum) not in sent}


def _signal_name(signum: int) -> str:
    return signal.Signals(signum).name if signum in set(signal.Signals) else f"signal {signum}"


def _error_line(log: str, code: int) -> str:
    lines = [line.strip() for line in log.splitlines()]
    errors = [line for line in lines if "Error: " in line and "ChildFailedError" not in line]
    return errors[0] if errors else f"the processes ended with exit code {code}"


def main(folder: str) -> None:
    """Run one rank of the trial in `folder`; rank 0 appends its reports there."""
    die_with_parent(signal.SIGKILL)
    spec = json.loads((Path(folder) / SPEC).read_text())

    def report(values: dict[str, Any]) -> None:
        if not distributed.rank():
            with (Path(folder) / REPORTS).open("a") as file:
                file.write(json.dumps(values) + "\n")

    def work() -> None:
        distributed.join()
        in_process.run(spec, report)

    try:
        with ThreadPoolExecutor(1) as thread:  # in the main thread Lightning would catch SIGTERM and wait for its peers
            thread.submit(work).result()
    except Exception as error:
        connection = isinstance(error, dist.DistError) or "gloo" in str(error)
        entry = {"rank": distributed.rank(), "line": first_line(error), "connection": connection, "time": time.time()}
        partial = Path(folder) / f"partial-{distributed.rank()}"
        partial.write_text(json.dumps(entry))
        partial.rename(partial.with_name(f"error-{distributed.rank()}"))  # atomic: torchrun may kill us at any moment
        raise
    distributed.exit_rank()


if __name__ == "__main__":
    main(sys.argv[1])
