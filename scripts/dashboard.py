"""MLflow's pages on the local experiments, opened straight on accuracy against MACs: make dashboard.

python scripts/dashboard.py [--output outputs] [--port 5000]
python scripts/dashboard.py --uri http://HOST:PORT      # a server that runs already: only the link
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

from paredown.errors import UserError
from paredown.tracking.client import check_uri, connect, get_experiment, outages_as, public
from paredown.tracking.view import save_view, view_link

HOST = "127.0.0.1"
PORTS = range(5000, 5020)
PATIENCE = 120  # seconds for a server to start, on a busy machine


def main() -> int:
    """Exit code 0 after Ctrl-C, 2 for a wrong argument, the server's own when it fails."""
    parser = argparse.ArgumentParser(description="Show the recorded experiments in MLflow.")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder with the experiments")
    parser.add_argument("--port", type=int, help=f"default: the first free one of {PORTS[0]} to {PORTS[-1]}")
    parser.add_argument("--uri", help="address of a running MLflow server: print its link and stop")
    options = parser.parse_args()
    try:
        if options.uri:
            show_links(str(check_uri(options.uri)), str(check_uri(options.uri)))
            return 0
        return serve(options.output.absolute(), options.port)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


def serve(output: Path, port: int | None) -> int:
    """Run a server on the database in `output` until Ctrl-C or the server's own end; its exit code."""
    port = free_port(port)
    uri = str(check_uri(f"sqlite:///{output / 'mlflow.db'}"))
    connect(uri)
    process = start_server(output, uri, port)
    try:
        await_health(process, port)
        show_links(uri, f"http://{HOST}:{port}")
        print("Ctrl-C stops the server", flush=True)
        return process.wait()
    except KeyboardInterrupt:
        return 0
    finally:
        stop(process)


def free_port(wanted: int | None) -> int:
    """`wanted`, or the first free one of PORTS. Raises UserError when taken."""
    for port in PORTS if wanted is None else [wanted]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just left is free
            try:
                probe.bind((HOST, port))
            except (OSError, OverflowError):
                continue
            return port
    taken = f"{PORTS[0]} to {PORTS[-1]} are" if wanted is None else f"{wanted} is"
    raise UserError(f"port {taken} taken or not allowed: give a free one between 1024 and 65535 with --port")


def start_server(output: Path, uri: str, port: int) -> subprocess.Popen[bytes]:
    """MLflow with one worker and no job runners: more workers add 44 ms to a request, the runners 0.9 GB."""
    options = {
        "host": HOST,
        "port": port,
        "workers": 1,
        "backend-store-uri": uri,
        "registry-store-uri": uri,
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
    # its own session: the terminal's Ctrl-C reaches only this script, which then ends the whole group once
    return subprocess.Popen(command, env=environment, start_new_session=True)


def await_health(process: subprocess.Popen[bytes], port: int) -> None:
    """Return when the server answers. Raises UserError when it ends or takes longer than PATIENCE."""
    limit = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < limit:
        try:
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    ended = process.poll() is not None
    state = f"ended with code {process.returncode}" if ended else f"does not answer after {PATIENCE} s"
    raise UserError(f"the MLflow server on port {port} {state}: see its messages above")


def show_links(uri: str, server: str) -> None:
    """Print the link of each experiment's saved chart, the newest first."""
    with outages_as(UserError, f"{public(uri)} does not answer as an MLflow store: "):
        client = connect(uri)
        if not client.search_experiments(filter_string="name != 'Default'"):
            print("nothing is recorded yet: the chart fills as experiments finish")
            get_experiment(client, uri, "paredown")
        for experiment in client.search_experiments(filter_string="name != 'Default'"):
            save_view(client, experiment)
            print(view_link(public(server), experiment.experiment_id), flush=True)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the server's whole process group, kindly first."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
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
