"""The watch over a Ray of our own: Tune waits for ever for a raylet that was killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from typing import Any

from paredown.core import interrupt
from paredown.core.requests import FAILED

POLL_SECONDS = 1.0
AGAIN_SECONDS = 10.0  # between two interruptions of a main thread that does not come out of Ray
LAST_SECONDS = 25.0  # after which the process ends, whatever still blocks it: `relax` is then too late
VITAL = ("raylet", "gcs_server")  # without one of these Ray runs nothing and tells nothing

Ending = Callable[[str], str]  # closes what is open after Ray's death, and returns the line to end with
_timers: list[threading.Timer] = []


class ClusterLost(Exception):
    """The death of a process that the local Ray cannot do without; the message says of which."""


@contextmanager
def watched(processes: Mapping[str, Popen[Any]], ending: Ending) -> Iterator[None]:
    """Raise ClusterLost out of the `with` block, on the main thread, when one of Ray's `processes` (by name) dies.

    Unless `relax` is called within LAST_SECONDS of that, the rest of Ray is killed and this process ends, on another
    thread, with what `ending` makes of the reason and exit code 1: Ray blocks without its GCS server.
    """
    watch = _Watch(processes, ending)
    watch.start()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if reason := dead(processes):
            raise ClusterLost(reason) from error
        raise
    finally:
        watch.stop.set()


def end_soon(reason: str, processes: Mapping[str, Popen[Any]], ending: Ending) -> None:
    """Kill `processes` and end this process in LAST_SECONDS with the line of `ending`, unless `relax` is called: what
    needs a dead process may wait for ever."""
    relax()
    last = threading.Timer(LAST_SECONDS, _leave, [reason, processes, ending])
    last.daemon = True
    _timers.append(last)
    last.start()


def relax() -> None:
    """Let this process live on after a ClusterLost: everything is closed."""
    while _timers:
        _timers.pop().cancel()


def processes_of_ray() -> dict[str, Popen[Any]]:
    """Return the vital processes of the Ray that this process has started, by name; none where it joined a cluster."""
    node = sys.modules["ray"]._private.worker._global_node
    started = node.all_processes if node else {}
    return {name: started[name][0].process for name in VITAL if started.get(name)}


def dead(processes: Mapping[str, Popen[Any]]) -> str | None:
    """Return which of `processes` has ended and how, None if all run."""
    for name, process in processes.items():
        if (code := process.poll()) is not None:
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
            return f"Ray's process {name} (pid {process.pid}) {how}"
    return None


def kill(processes: Mapping[str, Popen[Any]]) -> None:
    """Kill `processes` and their children: a raylet waits a minute for its GCS server, and its agents longer."""
    alive = [process.pid for process in processes.values() if process.poll() is None]
    every = [pid for parent in alive for pid in (parent, *_children(parent))]
    for pid in every:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    """Return the child processes of `pid`; none where it has ended, or the system does not list them."""
    with suppress(OSError):
        lists = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/children")]
        return [int(child) for listed in lists for child in listed.split()]
    return []


class _Watch(threading.Thread):
    def __init__(self, processes: Mapping[str, Popen[Any]], ending: Ending) -> None:
        super().__init__(name="ray-watch", daemon=True)
        self.processes, self.ending, self.stop = processes, ending, threading.Event()

    def run(self) -> None:
        while not self.stop.wait(POLL_SECONDS):
            if reason := dead(self.processes):
                end_soon(reason, self.processes, self.ending)
                self._interrupt()
                return

    def _interrupt(self) -> None:
        while True:
            interrupt.forget()  # no user's: it is to be raised, not to end the process
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            if self.stop.wait(AGAIN_SECONDS):
                return


def _leave(reason: str, processes: Mapping[str, Popen[Any]], ending: Ending) -> None:
    kill(processes)
    try:
        print(f"paredown: {ending(reason)}; the same command goes on", file=sys.stderr, flush=True)
    finally:
        os._exit(FAILED)
