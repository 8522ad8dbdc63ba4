"""A Ray to run on: one of our own on this machine, or one that is there."""

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

from paredown.errors import UserError
from paredown.sweep.file import Sweep
from paredown.sweep.room import require_room

SOURCE = Path(__file__).parents[2]
REPOSITORY = SOURCE.parent
# What a worker needs of the repository is its code and its configuration; Ray ships at most 500 MiB.
LEFT_OUT = [".git", ".venv", "/outputs", "/data", "/docs", "/tests", "/benchmarks", "**/__pycache__"]
STARTS = 3  # tries: on a busy machine Ray gives its own processes too little time
PROBE = 5.0  # seconds to wait for an address to answer

log = logging.getLogger("paredown")

Link = Callable[[], str | None]


@contextmanager
def connecting(sweep: Sweep) -> Iterator[Link]:
    """Call what this gives to be connected, as by `connect`. A Ray of our own starts at once: that takes three seconds,
    in which the sweep can be planned."""
    if sweep.cluster.kind != "local":
        yield lambda: connect(sweep)
        return
    _set_up(local=True)
    import ray  # noqa: F401 (here, and not while this thread imports torch)

    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(connect, sweep)

        def joined() -> str | None:
            link = started.result()
            _take_signals_back()
            return link

        try:
            yield joined
        finally:
            wait([started])
            disconnect()


def connect(sweep: Sweep) -> str | None:
    """Connect this process to the Ray of `sweep.cluster`; the address of its dashboard, where it has one.

    Raises UserError where none answers, where it is another Ray or Python, where its token is not ours, and where no
    node has what one experiment asks for.
    """
    cluster = sweep.cluster
    _set_up(cluster.kind == "local")
    context = _start(cluster.dashboard) if cluster.kind == "local" else _join(cluster.address)
    _take_signals_back()
    try:
        nodes = sys.modules["ray"].nodes()
        require_room(sweep, [node["Resources"] for node in nodes if node["Alive"]], bool(context.dashboard_url))
    except UserError:
        disconnect()
        raise
    return f"http://{context.dashboard_url}" if context.dashboard_url else None


def _take_signals_back() -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has put a crash report in its place


def disconnect() -> None:
    """Leave Ray, if we are on one; ends the one on this machine that is ours, and all that we run."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def _set_up(local: bool) -> None:
    """What Ray reads when it is imported, and what the processes of a Ray of our own inherit."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # left unset, it depends on a file in the home folder
    if local:
        if not _has_token():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(SOURCE)]
        os.environ["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *paths])


def _start(dashboard: bool) -> Any:
    import ray

    for _ in range(STARTS):
        try:
            return ray.init(address="local", include_dashboard=dashboard, **_quiet())
        except Exception as error:  # Ray has no class of its own for this one
            if "timed out during startup" not in str(error):
                raise
            log.warning("Ray did not start in time, as happens on a busy machine: once more")
    raise UserError(f"Ray did not start within its 30 seconds, {STARTS} times in a row: is this machine overloaded?")


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

    in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # `ray job submit` has shipped the code already
    shipped = {} if in_job else {"working_dir": str(REPOSITORY), "excludes": LEFT_OUT}
    try:
        return ray.init(address=address, runtime_env=shipped | {"env_vars": {"PYTHONPATH": "src"}}, **_quiet())
    except ConnectionError as error:
        if address == "auto":
            raise UserError("no Ray runs here: start one with `ray start --head`, or give cluster.address") from error
        raise UserError(
            f"cluster.address={address} answers, but not to us: is RAY_AUTH_TOKEN its token, and is it a Ray?"
        ) from error
    except RuntimeError as error:
        if "ersion mismatch" not in str(error) and "uthent" not in str(error):
            raise
        raise UserError(f"the Ray at cluster.address={address} is not ours to use: {_one_line(error)}") from error


def _quiet() -> dict[str, Any]:
    return {"log_to_driver": False, "logging_level": logging.ERROR}


def _has_token() -> bool:
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    return bool(given) or (Path.home() / ".ray" / "auth_token").is_file()


def _require_answer(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"cluster.address={address} is no address: give auto, or HOST:PORT of the head (port 6379)")
    try:
        socket.create_connection((host, int(port)), timeout=PROBE).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"no Ray answers at cluster.address={address}: {reason.lower()}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
