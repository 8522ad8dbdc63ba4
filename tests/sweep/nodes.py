"""A Ray cluster of separate `ray start` processes on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from driving import TOKEN, descendants

from mlflow_server import free_port


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # of what a job calls `python`
    ray = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
    return os.environ | ray | {"PATH": path}


class Node:
    """One node with `cpus`: the head of a new cluster, with a dashboard at `jobs` if `dashboard`, or a member of the
    one at `address`. With `own` it has a private file system in that folder and a private pid namespace."""

    def __init__(
        self, address: str | None = None, cpus: int = 1, dashboard: bool = False, own: Path | None = None
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="r"))
        self.address = address or f"127.0.0.1:{free_port()}"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", f"--num-cpus={cpus}"]
        command += ["--disable-usage-stats", "--node-ip-address=127.0.0.1"]
        # on the port that all share an agent waits for seconds, and then takes no jobs
        command += [f"--dashboard-agent-listen-port={free_port()}"]
        if address:
            command += [f"--address={address}"]
        else:
            port = self.address.rpartition(":")[2]
            command += ["--head", f"--port={port}", f"--temp-dir={self.folder}"]
            self.jobs = f"http://127.0.0.1:{free_port()}"
            command += [f"--include-dashboard={str(dashboard).lower()}", f"--dashboard-port={self.jobs.split(':')[2]}"]
        if own:
            hidden = f'mount -t tmpfs tmpfs {own} && exec "$@"'
            apart = ["unshare", "-m", "-p", "--fork", "--kill-child", "--mount-proc"]
            command = [*apart, "sh", "-c", hidden, "sh", *command]
        self.log = (self.folder / "log").open("w")
        self.process = subprocess.Popen(command, env=environment(), stdout=self.log, stderr=self.log)
        until = time.monotonic() + 90
        while "Ray runtime started" not in (text := (self.folder / "log").read_text()):
            assert self.process.poll() is None and time.monotonic() < until, text
            time.sleep(0.2)

    def kill(self) -> None:
        """Kill every process of the node at once, as a power cut does."""
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)
