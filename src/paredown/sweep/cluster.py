"""The connection to Ray: a local instance for this sweep, or an existing cluster."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paredown.core.errors import UserError, reason
from paredown.core.places import INSTALLED
from paredown.sweep.resources import require_capacity
from paredown.sweep.spec import Sweep
from paredown.sweep.watch import dead, kill, processes_of_ray

SOURCE = Path(__file__).parents[2]
REPOSITORY = SOURCE.parent
# Workers need code and configuration only; Ray uploads at most 500 MiB.
EXCLUDES = [".git", ".venv", "/outputs", "/data", "/docs", "/tests", "/benchmarks", "**/__pycache__"]
START_ATTEMPTS = 3  # Ray's start-up timeout is too short for a busy machine
PROBE_SECONDS = 5.0  # to wait for an address to answer

log = logging.getLogger("paredown")

Connect = Callable[[], str | None]


@contextmanager
def connecting(sweep: Sweep) -> Iterator[Connect]:
    """Yield the function that connects to Ray and returns what `connect` does. A local Ray starts in the background
    meanwhile: it takes three seconds, in which the sweep can be planned."""
    if sweep.cluster.kind != "local":
        yield lambda: connect(sweep)
        return
    _set_environment(local=True)
    import ray  # noqa: F401 (not in the other thread while this one imports torch)

    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(connect, sweep)

        def wait_for_start() -> str | None:
            dashboard = started.result()
            _restore_sigterm()
            return dashboard

        try:
            yield wait_for_start
        finally:
            wait([started])
            disconnect()


def connect(sweep: Sweep) -> str | None:
    """Connect this process to the Ray cluster of `sweep`; return the address of its dashboard, None if it has none.

    Raise UserError if it does not answer, runs another version of Ray or Python, refuses our token, or has no node with
    the resources of one experiment.
    """
    cluster = sweep.cluster
    _set_environment(cluster.kind == "local")
    context = _start(cluster.dashboard) if cluster.kind == "local" else _join(cluster.address)
    _restore_sigterm()
    try:
        nodes = sys.modules["ray"].nodes()
        require_capacity(sweep, [node["Resources"] for node in nodes if node["Alive"]], bool(context.dashboard_url))
    except UserError:
        disconnect()
        raise
    return f"http://{context.dashboard_url}" if context.dashboard_url else None


def _restore_sigterm() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # Ray has installed a crash reporter


def disconnect() -> None:
    """Disconnect from Ray, if connected; end a local instance and all trials."""
    if "ray" not in sys.modules:
        return
    if dead(processes := processes_of_ray()):  # what is left would wait for it
        kill(processes)
        sys.modules["ray"]._private.worker._global_node.kill_all_processes(check_alive=False, allow_graceful=False)
    sys.modules["ray"].shutdown()


def _set_environment(local: bool) -> None:
    """Set the variables that Ray reads when it is imported, and that the processes of a local instance inherit."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # the default depends on a file in the home folder
    if local:
        if not _has_token():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(SOURCE)]
        os.environ["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *paths])


def _start(dashboard: bool) -> Any:
    import ray

    for _ in range(START_ATTEMPTS):
        try:
            return ray.init(address="local", include_dashboard=dashboard, **_quiet())
        except Exception as error:  # Ray has no exception class for this
            if "timed out during startup" not in str(error):
                raise
            log.warning("Ray did not start in time, as happens on a busy machine: trying again")
    raise UserError(
        f"Ray did not start within its 30 seconds, {START_ATTEMPTS} times in a row: is this machine overloaded?"
    )


def _join(address: str) -> Any:
    if os.environ["RAY_AUTH_MODE"] == "token" and not _has_token():
        raise UserError(
            "cluster=ray needs the cluster's token in RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH "
            "(a cluster without one: RAY_AUTH_MODE=disabled)"
        )
    address = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    if address != "auto":
        _require_answer(address)
    import ray

    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # `ray job submit` has uploaded the code already
    code: dict[str, Any] = {} if in_job or INSTALLED else {"working_dir": str(REPOSITORY), "excludes": EXCLUDES}
    code |= {} if INSTALLED else {"env_vars": {"PYTHONPATH": "src"}}  # an installed package is installed on every node
    try:
        return ray.init(address=address, runtime_env=code, **_quiet())
    except ConnectionError as error:
        if address == "auto":
            raise UserError("no Ray runs here: start one with `ray start --head`, or give cluster.address") from error
        raise UserError(
            f"cluster.address={address} answers, but refuses us: is RAY_AUTH_TOKEN its token, and is it a Ray?"
        ) from error
    except RuntimeError as error:
        if "ersion mismatch" not in str(error) and "uthent" not in str(error):
            raise
        raise UserError(f"the Ray at cluster.address={address} cannot be used: {reason(error)}") from error


def _quiet() -> dict[str, Any]:
    # what a worker or a raylet leaves in its log, pages at times, is told by the sweep in a line
    sys.modules["ray"]._private.worker.print_to_stdstream = lambda *_, **__: None
    return {"log_to_driver": False, "logging_level": logging.ERROR}


def _has_token() -> bool:
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    return bool(given) or (Path.home() / ".ray" / "auth_token").is_file()


def _require_answer(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"cluster.address={address} is no address: give auto, or HOST:PORT of the head (port 6379)")
    try:
        socket.create_connection((host, int(port)), timeout=PROBE_SECONDS).close()
    except OSError as error:
        said = error.strerror or str(error)
        raise UserError(f"no Ray answers at cluster.address={address}: {said.lower()}") from error
