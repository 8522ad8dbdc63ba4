"""A real MLflow server, killed in the middle of a training and started again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from stores import contents, expected, query, record

from mlflow_server import Server
from paredown.tracking.tracker import Tracker, send_pending

pytestmark = pytest.mark.slow


@pytest.fixture
def server(tmp_path, uri):
    server = Server(tmp_path, uri)
    server.start()
    yield server
    server.kill()


def test_server_killed_in_the_middle(tmp_path, uri, server, caplog):
    tracker = Tracker(tmp_path / "a", server.uri)
    tracker.start("ssc", {"seed": 1}, {"method": "ssc"})
    record(tracker, range(5))
    assert contents(uri)["metrics"] == expected(range(5))
    cursor = next((tmp_path / "a/tracking").glob("sent-*.json"))
    early = cursor.read_text()
    tracker.metrics({"cost/macs": 1e9}, 5)
    assert tracker.send()

    server.kill()
    began = time.monotonic()
    record(tracker, range(5, 10))
    tracker.text("text", "notes/a.txt")
    assert time.monotonic() - began < 4
    assert [entry.getMessage() for entry in caplog.records if "accepts no records" in entry.getMessage()].__len__() == 1
    cursor.write_text(early)  # as if killed between the sending and the writing of the cursor

    server.start()
    assert tracker.finish()
    found = contents(uri)
    assert found["runs"] == [("ssc", "FINISHED", "active")]
    assert found["metrics"] == [("cost/macs", 5, 1e9, 0), *expected(range(10))]
    assert (tmp_path / f"artifacts/1/{tracker.run_id}/artifacts/notes/a.txt").read_text() == "text"
    page = urllib.request.urlopen(f"{server.uri}/ajax-api/2.0/mlflow/runs/get?run_id={tracker.run_id}", timeout=5)
    assert page.status == 200
    assert tracker.url == f"{server.uri}/#/experiments/1/runs/{tracker.run_id}?workflowType=machine_learning"


def test_never_restarted_server_is_made_up_for_by_one_command(tmp_path, uri, server):
    tracker = Tracker(tmp_path / "a", server.uri)
    tracker.start("ssc", {"seed": 1}, {"method": "ssc"})
    record(tracker, range(3))
    server.kill()
    record(tracker, range(3, 6))
    assert not tracker.finish()
    assert send_pending(tmp_path, server.uri)["pending"] == 1
    server.start()
    assert send_pending(tmp_path, server.uri) == {"runs": 1, "records": 4, "pending": 0}
    assert send_pending(tmp_path, server.uri) == {"runs": 1, "records": 0, "pending": 0}
    assert contents(uri)["metrics"] == expected(range(6))
    assert query(uri, "select status from runs") == [("FINISHED",)]


def test_two_runs_at_once_through_one_server(tmp_path, uri, server):
    code = (
        "import sys; from pathlib import Path; from paredown.tracking.tracker import Tracker\n"
        "t = Tracker(Path(sys.argv[1]), sys.argv[2]); t.start('x', {}, {})\n"
        "for i in range(20):\n    t.metrics({'a': i}, i); t.send()\n"
        "assert t.finish()"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "src")}
    command = [sys.executable, "-c", code]
    both = [subprocess.Popen([*command, str(tmp_path / name), server.uri], env=environment) for name in ("a", "b")]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    assert query(uri, "select count(*) from metrics group by run_uuid") == [(20,), (20,)]
    assert query(uri, "select status, count(*) from runs group by status") == [("FINISHED", 2)]
