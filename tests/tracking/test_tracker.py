from __future__ import annotations

import math
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from stores import contents, expected, query, record

from paredown.core.errors import UserError
from paredown.tracking.tracker import Tracker, send_pending

PARAMS = {"method": {"g": 4, "p": 0.5}, "seed": 1, "milestones": [0.5, 0.75], "weights": None}
TAGS = {"method": "ssc", "model": "resnet32"}


def begin(folder: Path, uri: str | None) -> Tracker:
    tracker = Tracker(folder, uri)
    tracker.start("ssc-resnet32", PARAMS, TAGS)
    return tracker


def dead_uri() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_what_is_recorded_arrives(tmp_path, uri):
    tracker = begin(tmp_path / "a", uri)
    record(tracker, range(3))
    tracker.metrics({"x/nan": math.nan}, 3)
    tracker.text("seed: 1\n", "config.yaml")
    (tmp_path / "weights").write_bytes(bytes(range(256)))
    tracker.artifact(tmp_path / "weights", "state")
    assert tracker.finish()
    found = contents(uri)
    assert found["runs"] == [("ssc-resnet32", "FINISHED", "active")]
    assert found["metrics"] == [*expected(range(3)), ("x/nan", 3, 0.0, 1)]
    assert dict(found["params"]) == {
        "method.g": "4", "method.p": "0.5", "seed": "1", "milestones": "[0.5, 0.75]", "weights": "null"
    }  # fmt: skip
    assert dict(found["tags"]).items() >= (TAGS | {"kind": "experiment"}).items()
    artifacts = tmp_path / "mlartifacts" / str(tracker.run_id) / "artifacts"
    assert (artifacts / "config.yaml").read_text() == "seed: 1\n"
    assert (artifacts / "state/weights").read_bytes() == bytes(range(256))


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_artifact", "set_terminated"])
def test_answer_lost_on_the_way_back_records_nothing_twice(tmp_path, uri, monkeypatch, call):
    real = getattr(MlflowClient, call)

    def lose_the_answer(self, *args, **kwargs):
        real(self, *args, **kwargs)
        monkeypatch.setattr(MlflowClient, call, real)
        raise MlflowException("connection reset")

    monkeypatch.setattr(MlflowClient, call, lose_the_answer)
    tracker = begin(tmp_path / "a", uri)
    record(tracker, range(3))
    tracker.metrics({"x/nan": math.nan, "x/inf": math.inf}, 3)
    tracker.text("text", "note.txt")
    sent = tracker.finish()
    assert sent == (call in ("create_run", "log_batch"))  # those fail at the start, long before the end
    assert send_pending(tmp_path, uri)["pending"] == 0
    found = contents(uri)
    assert found["runs"] == [("ssc-resnet32", "FINISHED", "active")]
    assert found["metrics"][:6] == expected(range(3))
    assert [row[0] for row in found["metrics"][6:]] == ["x/inf", "x/nan"]


def test_lost_cursor_finds_its_run_again(tmp_path, uri):
    tracker = begin(tmp_path / "a", uri)
    record(tracker, range(5))
    tracker.finish()
    before, run_id = contents(uri), tracker.run_id
    next((tmp_path / "a/tracking").glob("sent-*.json")).unlink()
    assert tracker.run_id is None
    assert send_pending(tmp_path, uri) == {"runs": 1, "records": 7, "pending": 0}
    assert contents(uri) == before
    assert Tracker(tmp_path / "a", uri).run_id == run_id


def test_killed_run_goes_on_as_the_same_run(tmp_path, uri):
    killed = begin(tmp_path / "a", uri)
    record(killed, range(3))
    assert query(uri, "select status from runs") == [("RUNNING",)]
    resumed = Tracker(tmp_path / "a", uri)
    resumed.start("ssc-resnet32", PARAMS | {"seed": 2}, TAGS)
    resumed.metrics({"train/loss": -1.0}, 2)  # replayed since the last checkpoint: already there
    record(resumed, range(2, 5))
    assert resumed.finish()
    found = contents(uri)
    assert resumed.run_id == killed.run_id
    assert found["runs"] == [("ssc-resnet32", "FINISHED", "active")]
    assert found["metrics"] == expected(range(5))
    assert dict(found["params"])["seed"] == "1"
    assert dict(found["tags"])["resumed/seed"] == "2"


def test_finished_run_that_is_resumed_runs_again_and_fails(tmp_path, uri):
    begin(tmp_path / "a", uri).finish()
    resumed = begin(tmp_path / "a", uri)
    assert query(uri, "select status from runs") == [("RUNNING",)]
    resumed.finish("FAILED")
    assert query(uri, "select status from runs") == [("FAILED",)]


def test_torn_line_is_dropped_and_recorded_again(tmp_path, uri):
    tracker = begin(tmp_path / "a", uri)
    record(tracker, range(3))
    path = tracker.journal.path
    path.write_bytes(path.read_bytes() + b'{"kind": "metrics", "time": 1, "step": 3, "val')
    resumed = begin(tmp_path / "a", uri)
    record(resumed, range(3, 5))
    resumed.finish()
    assert contents(uri)["metrics"] == expected(range(5))


def test_off_writes_the_journal_alone_and_imports_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path; from paredown.tracking.tracker import Tracker\n"
        f"t = Tracker(Path({str(tmp_path)!r}), 'off'); t.start('x', {{}}, {{}}); t.metrics({{'a': 1}}, 0)\n"
        "assert t.finish() and t.run_id is None and t.url is None\n"
        "Tracker(Path('/tmp/nowhere'), 'sqlite:////tmp/nowhere/mlflow.db')\n"
        "assert not {'mlflow', 'sqlalchemy', 'plotly', 'torch'} & set(sys.modules)"
    )
    source = str(Path(__file__).parents[2] / "src")
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": source}, check=True, timeout=60)
    assert len(Tracker(tmp_path, None).journal.read()[0]) == 3


def test_offline_from_the_start_then_two_stores(tmp_path, uri, caplog):
    tracker = begin(tmp_path / "a", dead_uri())
    record(tracker, range(4))
    assert not tracker.finish()
    warnings = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "Connection refused" in warnings[0]
    assert str(tmp_path / "a" / "tracking") in warnings[0]
    other = uri.replace("mlflow.db", "other.db")
    shutil.copy(tmp_path / "mlflow.db", tmp_path / "other.db")
    assert send_pending(tmp_path, uri) == send_pending(tmp_path, other) == {"runs": 1, "records": 6, "pending": 0}
    assert send_pending(tmp_path, uri)["records"] == 0
    assert contents(uri) == contents(other)
    assert contents(uri)["metrics"] == expected(range(4))


def test_silent_server_costs_one_attempt_each_pause(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        tracker = Tracker(tmp_path / "a", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        tracker.start("x", {}, {})
        record(tracker, range(100))
        assert 1 <= time.monotonic() - began < 4


def test_store_that_lost_everything_is_filled_again(tmp_path, uri, empty_database):
    tracker = begin(tmp_path / "a", uri)
    record(tracker, range(3))
    tracker.finish()
    before = contents(uri)
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    assert send_pending(tmp_path, uri)["records"] == 5
    assert contents(uri) == before


def test_run_in_the_bin_stays_there_until_there_is_more(tmp_path, uri):
    tracker = begin(tmp_path / "a", uri)
    tracker.finish()
    MlflowClient(uri).delete_run(str(tracker.run_id))
    send_pending(tmp_path, uri)
    assert query(uri, "select lifecycle_stage from runs") == [("deleted",)]
    record(begin(tmp_path / "a", uri), range(2))
    assert query(uri, "select lifecycle_stage from runs") == [("active",)]
    assert contents(uri)["metrics"] == expected(range(2))


def test_more_than_one_call_can_take(tmp_path, uri):
    tracker = Tracker(tmp_path / "a", None)
    tracker.start("wide", {f"p{i}": i for i in range(250)}, {f"t{i}": "x" for i in range(150)})
    for step in range(3):
        tracker.metrics({f"m{i}": i for i in range(1500)}, step)
    tracker.finish()
    send_pending(tmp_path, uri)
    found = contents(uri)
    assert [len(found[name]) for name in ("metrics", "params")] == [4500, 250]
    assert len([key for key, _ in found["tags"] if key[1:].isdigit()]) == 150


def test_deleted_file_does_not_hold_up_the_rest(tmp_path, uri, caplog):
    tracker = begin(tmp_path / "a", None)
    tracker.text("text", "note.txt")
    tracker.finish()
    (tracker.journal.files / "note.txt").unlink()
    assert send_pending(tmp_path, uri)["pending"] == 0
    assert "note.txt was deleted" in caplog.text
    assert contents(uri)["runs"] == [("ssc-resnet32", "FINISHED", "active")]


def test_figure_needs_no_network(tmp_path):
    tracker = begin(tmp_path / "a", None)
    tracker.figure(go.Figure(go.Scatter(x=[1], y=[2])), "front.html")
    page = (tracker.journal.files / "front.html").read_text()
    assert len(page) > 1_000_000
    assert "<script src=" not in page.replace('charset="utf-8" ', "")


def test_use_before_start_is_a_bug(tmp_path):
    with pytest.raises(RuntimeError, match="start"):
        Tracker(tmp_path, None).metrics({"a": 1.0}, 0)


def test_send_pending_names_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="absent is not a folder"):
        send_pending(tmp_path / "absent", "sqlite:///x.db")
    with pytest.raises(UserError, match="off is not a store"):
        send_pending(tmp_path, "off")


def test_command_that_sends_what_waits(tmp_path, uri):
    begin(tmp_path / "sweep" / "a", None).finish()
    source = str(Path(__file__).parents[2] / "src")
    command = [sys.executable, "-m", "paredown.tracking", "--output", str(tmp_path)]
    kept: dict[str, Any] = {"env": {"PYTHONPATH": source}, "capture_output": True, "text": True}
    done = subprocess.run(command, check=False, **kept)
    assert (done.returncode, done.stdout) == (0, "1 run, 2 records sent, 0 runs pending\n"), done.stderr
    assert contents(uri)["runs"] == [("ssc-resnet32", "FINISHED", "active")]
    wrong = subprocess.run([*command, "--uri", "x"], check=False, **kept)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
