from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import plotly.graph_objects as go
import pytest
from browser import Browser, free_port, missing

from paredown.tracking.tracker import Tracker

ROOT = Path(__file__).parents[2]
POINTS = [(91.2, 69e6), (89.9, 7e6)]


def start(*arguments: object) -> subprocess.Popen[str]:
    """Start the script as `make dashboard` does, with its errors in its output."""
    command = [sys.executable, str(ROOT / "scripts/dashboard.py"), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def status(request: urllib.request.Request) -> int:
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code


def lines_until(process: subprocess.Popen[str], word: str) -> list[str]:
    assert process.stdout is not None
    seen: list[str] = []
    for line in process.stdout:
        seen.append(line.rstrip())
        if word in line:
            return seen
    raise AssertionError(f"no line with {word!r} in {seen}")


def test_taken_port_is_one_line(tmp_path):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        process = start("--output", tmp_path, "--port", port)
        output = process.communicate(timeout=100)[0]
    assert process.returncode == 2
    assert output == f"port {port} is taken or not allowed: give a free one between 1024 and 65535 with --port\n"


def test_a_folder_that_is_not_there_is_one_line_and_not_made(tmp_path):
    process = start("--output", tmp_path / "typo")
    assert (
        process.communicate(timeout=100)[0] == f"there is no folder {tmp_path}/typo: give the one that output= named\n"
    )
    assert process.returncode == 2 and not (tmp_path / "typo").exists()


def test_dead_server_is_one_line():
    process = start("--uri", f"http://127.0.0.1:{free_port()}")
    output = process.communicate(timeout=100)[0]
    assert process.returncode == 2
    assert output.count("\n") == 1
    assert "does not answer as an MLflow store: ConnectionRefusedError" in output


@pytest.mark.slow
def test_empty_output_folder_still_starts_and_stops_on_interrupt(tmp_path):
    port = free_port()
    (tmp_path / "outputs").mkdir()
    process = start("--output", tmp_path / "outputs", "--port", port)
    lines = lines_until(process, "Ctrl-C")
    address, named = f"http://127.0.0.1:{port}", f"http://paredown.localhost:{port}"
    chart = "#/experiments/1/runs?viewStateShareKey=paredown&compareRunsMode=CHART&workflowType=machine_learning"
    assert lines[-4:-1] == [
        "nothing is recorded yet: the chart fills as experiments finish",
        "all runs",
        f"  {named}/{chart}",
    ]
    assert (tmp_path / "outputs" / "dashboard.url").read_text() == named  # reports link to it
    assert urllib.request.urlopen(f"{address}/health", timeout=10).status == 200
    second = start("--uri", address)
    assert second.communicate(timeout=100)[0].splitlines() == ["all runs", f"  {address}/{chart}"]
    foreign = urllib.request.Request(f"{address}/api/2.0/mlflow/experiments/get?experiment_id=1")
    for host, expected in ((f"paredown.localhost:{port}", 200), ("evil.example", 403)):
        foreign.add_header("Host", host)
        assert status(foreign) == expected
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{address}/health", timeout=10)


@pytest.fixture
def recorded(tmp_path, uri):
    """Record two finished runs and the parent of a sweep, which has no accuracy; return the run id of the second."""
    for index, (accuracy, macs) in enumerate(POINTS):
        tracker = Tracker(tmp_path / str(index), uri)
        tracker.start(f"ssc-{index}", {"seed": index}, {"method": "ssc"})
        tracker.metrics({"final/top1": accuracy, "cost/macs": macs}, 1)
        tracker.figure(go.Figure(go.Scatter(x=[1, 2, 3], y=[3, 1, 2], mode="markers")), "figures/front.html")
        assert tracker.finish()
    parent = Tracker(tmp_path / "parent", uri)
    parent.start("the-parent", {}, {"kind": "sweep"})
    assert parent.finish()
    return tracker.run_id


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=f"{missing()} is not installed")
def test_pages_in_a_browser(tmp_path, recorded):
    process = start("--output", tmp_path, "--port", free_port())
    link = lines_until(process, "Ctrl-C")[-2].strip()
    run_page = link.split("?")[0] + f"/{recorded}"
    shots = Path(os.environ.get("PAREDOWN_TEST_SHOTS", tmp_path))
    try:
        with Browser() as browser:
            browser.open(link)
            browser.wait(lambda: browser.count(".scatterlayer .point") == len(POINTS))
            assert {"ssc-0", "ssc-1", "cost/macs vs. final/top1"} <= set(browser.text().splitlines())
            assert "the-parent" not in browser.text()
            browser.shot(shots / "view.png")
            browser.open(f"{run_page}?workflowType=machine_learning")
            browser.wait(lambda: {"cost/macs", "final/top1", "89.9"} <= set(browser.text().split()))
            browser.shot(shots / "run.png")
            browser.open(f"{run_page}/artifacts/figures/front.html?workflowType=machine_learning")
            browser.wait(lambda: browser.count("iframe") == 1)
            browser.enter_frame()
            browser.wait(lambda: browser.count(".scatterlayer .point") == 3)
            browser.shot(shots / "artifact.png")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=30)
