"""MLflow's pages of the local experiments, opened at accuracy over MACs: make dashboard.

python scripts/dashboard.py [--output outputs] [--port 5000]
python scripts/dashboard.py --uri http://HOST:PORT      # a server that is already running: prints the link only
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from paredown.core.crash import OUTPUT
from paredown.core.errors import UserError
from paredown.core.files import write_text
from paredown.core.formatting import counted
from paredown.report.dashboard import charts
from paredown.tracking.client import check_uri, connect, get_experiment, mlflow_uri, outages_as, public
from paredown.tracking.view import ADDRESS, DEFAULT_PORT, HOST, local_server, view_link

LOOPBACK = "127.0.0.1"
PORTS = range(DEFAULT_PORT, DEFAULT_PORT + 20)
REFRESH_SECONDS = 60.0  # between two looks for runs to colour
NAMED = "name != 'Default'"
NAMES = ("localhost", LOOPBACK, HOST)  # of this machine
START_SECONDS = 120  # for a server to start on a busy machine


def main() -> int:
    """Return the exit code: 0 after Ctrl-C, 2 for a wrong argument, the server's if it fails."""
    parser = argparse.ArgumentParser(description="Show the recorded experiments in MLflow.")
    parser.add_argument("--output", type=Path, help=f"folder with the experiments; default: {OUTPUT}")
    parser.add_argument("--port", type=int, help=f"default: the first free one of {PORTS[0]} to {PORTS[-1]}")
    parser.add_argument("--uri", help="address of a running MLflow server: print its link and stop")
    options = parser.parse_args()
    try:
        if options.uri:
            show_links(str(check_uri(options.uri)), str(check_uri(options.uri)))
            return 0
        if options.output and not options.output.is_dir():
            raise UserError(f"there is no folder {options.output}: give the one that output= named")
        return serve((options.output or Path(OUTPUT)).absolute(), options.port)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def serve(output: Path, port: int | None) -> int:
    """Run a server on the database in `output` until Ctrl-C or until it ends; return its exit code."""
    port = free_port(port, int(local_server(output).rpartition(":")[2]))
    uri = str(check_uri(f"sqlite:///{output / 'mlflow.db'}"))
    connect(uri)
    process = start_server(output, uri, port)
    try:
        await_health(process, port)
        server = f"http://{HOST}:{port}"
        write_text(output / ADDRESS, server)  # reports link to it, and the next start takes the same port
        show_links(uri, server)
        print(f"Ctrl-C stops the server; a browser that finds no {HOST} finds {LOOPBACK}", flush=True)
        return wait(process, uri)
    except KeyboardInterrupt:
        return 0
    finally:
        stop(process)


def wait(process: subprocess.Popen[bytes], uri: str) -> int:
    """Return the exit code of the server when it ends; meanwhile colour the runs that come."""
    while True:
        try:
            return process.wait(REFRESH_SECONDS)
        except subprocess.TimeoutExpired:
            try:
                with outages_as(UserError, "the runs are not coloured: "):
                    client = connect(uri)
                    for experiment in client.search_experiments(filter_string=NAMED):
                        charts(client, experiment)
            except UserError as error:  # a locked database, which the next look may find free
                print(error, file=sys.stderr, flush=True)


def free_port(wanted: int | None, last: int) -> int:
    """Return the port `wanted`, or that of the `last` time or else the first free one of PORTS. Raise UserError if it
    is taken."""
    for port in [last, *PORTS] if wanted is None else [wanted]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            try:
                probe.bind((LOOPBACK, port))
            except (OSError, OverflowError):
                continue
            return port
    taken = f"{PORTS[0]} to {PORTS[-1]} are" if wanted is None else f"{wanted} is"
    raise UserError(f"port {taken} taken or not allowed: give a free one between 1024 and 65535 with --port")


def start_server(output: Path, uri: str, port: int) -> subprocess.Popen[bytes]:
    """Start MLflow with one worker and no job runners: more workers add 44 ms to a request, the runners 0.9 GB."""
    options = {
        "host": LOOPBACK,
        "allowed-hosts": ",".join(f"{name}{end}" for name in NAMES for end in ("", ":*")),
        "cors-allowed-origins": f"http://{HOST}:{port}",
        "port": port,
        "workers": 1,
        "backend-store-uri": mlflow_uri(uri),
        "registry-store-uri": mlflow_uri(uri),
        "artifacts-destination": (output / "mlartifacts").as_uri(),
        "uvicorn-opts": "--log-level warning",
    }
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *(f"--{key}={value}" for key, value in options.items()),
    ]
    quiet = {"MLFLOW_LOGGING_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore"}
    environment = os.environ | quiet | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # in a new session, so that Ctrl-C reaches only this script, which then ends the whole process group
    return subprocess.Popen(command, env=environment, start_new_session=True)


def await_health(process: subprocess.Popen[bytes], port: int) -> None:
    """Return when the server answers. Raise UserError if it ends or takes longer than START_SECONDS."""
    limit = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < limit:
        try:
            urllib.request.urlopen(f"http://{LOOPBACK}:{port}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    ended = process.poll() is not None
    state = f"ended with code {process.returncode}" if ended else f"does not answer after {START_SECONDS} s"
    raise UserError(f"the MLflow server on port {port} {state}: see its messages above")


def show_links(uri: str, server: str) -> None:
    """Print the links of the saved charts of each experiment, the newest first."""
    with outages_as(UserError, f"{public(uri)} does not answer as an MLflow store: "):
        client = connect(uri)
        if not client.search_experiments(filter_string=NAMED):
            print("nothing is recorded yet: the chart fills as experiments finish")
            get_experiment(client, uri, "paredown")
        for experiment in client.search_experiments(filter_string=NAMED):
            for chart in charts(client, experiment):
                print(f"{chart.what} ({counted(chart.runs, 'run')})" if chart.what else "all runs", flush=True)
                print(f"  {view_link(public(server), experiment.experiment_id, chart.key)}", flush=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server's process group, with SIGTERM before SIGKILL."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
            process.wait(timeout=10)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
