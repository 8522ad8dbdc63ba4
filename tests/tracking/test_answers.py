"""Servers that answer, but not as MLflow does: records wait, nothing is lost, nothing of theirs moves the terminal."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stores import query

from paredown.tracking import sender
from paredown.tracking.client import mlflow_uri
from paredown.tracking.tracker import Tracker, send_pending

RUN = {"info": {"run_id": "r1", "lifecycle_stage": "active", "status": "FINISHED", "experiment_id": "1"}, "data": {}}
MADE = {"experiment": {"experiment_id": "1", "name": "paredown", "lifecycle_stage": "active"}, "experiment_id": "1"}
ESCAPES = "\x1b[2J\x1b]0;title\x07"
ANSWERS = {
    "nothing": (200, b"{}"),
    "another": (200, b'{"hello": "world"}'),
    "list": (200, b"[]"),
    "null": (200, b"null"),
    "page": (200, b"<html><script>alert(1)</script></html>"),
    "types": (200, b'{"experiment": 3, "run": [1]}'),
    "bytes": (200, b"\xff\xfe\x00"),
    "as if it took everything": (200, json.dumps(MADE | {"run": RUN, "runs": []}).encode()),
    "half": (200, b'{"experiment": '),
    "escapes": (400, json.dumps({"error_code": f"X{ESCAPES}", "message": f"{ESCAPES}\n<b>"}).encode()),
    "drips": (200, b""),
}


class Handler(http.server.BaseHTTPRequestHandler):
    kind = "nothing"

    def log_message(self, *_: object) -> None: ...

    def answer(self) -> None:
        code, body = ANSWERS[self.kind]
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(code)
        self.send_header("Content-Length", str({"half": 2 * len(body), "drips": 1000}.get(self.kind, len(body))))
        self.end_headers()
        self.wfile.write(body)
        while self.kind == "drips":
            try:
                self.wfile.write(b" ")
                self.wfile.flush()
            except OSError:
                return
            time.sleep(0.1)

    do_GET = do_POST = do_PUT = do_PATCH = answer


@pytest.fixture
def serve() -> Iterator[Callable[[str], str]]:
    """Return a function that starts a server of one kind of answers and returns its address."""
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(kind: str) -> str:
        made = type("One", (Handler,), {"kind": kind})
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), made))
        servers[-1].daemon_threads = True
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_address[1]}"

    yield start
    for server in servers:
        server.shutdown()


@pytest.mark.parametrize("kind", ANSWERS)
def test_records_wait_and_reach_the_next_store_whole(tmp_path, uri, serve, caplog, capfd, monkeypatch, kind):
    import mlflow  # noqa: F401 (seconds, which are not the server's)

    monkeypatch.setattr(sender, "PATIENCE_SECONDS", 2.0 if kind == "drips" else 60.0)
    tracker = Tracker(tmp_path / "a", serve(kind))
    tracker.start("ssc", {"seed": 1}, {"method": "ssc"})
    tracker.metrics({"loss": 1.0}, 0)
    tracker.text("text", "notes/a.txt")
    began = time.monotonic()
    assert not tracker.finish() and tracker.has_pending
    assert time.monotonic() - began < 30
    said = caplog.text + "".join(capfd.readouterr())
    assert said.count("accepts no records") >= 1 and "\x1b" not in said and "Traceback" not in said
    assert send_pending(tmp_path, uri) == {"runs": 1, "records": 4, "pending": 0}
    assert query(uri, "select key, value from metrics") == [("loss", 1.0)]
    assert query(uri, "select status from runs") == [("FINISHED",)]


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"offset": -1}', '{"offset": "x"}', '{"more": 1}', "null"])
def test_a_damaged_cursor_sends_again_what_changes_nothing(tmp_path, uri, damage):
    tracker = Tracker(tmp_path / "a", uri)
    tracker.start("ssc", {}, {})
    tracker.metrics({"loss": 1.0}, 0)
    assert tracker.finish()
    next((tmp_path / "a/tracking").glob("sent-*.json")).write_text(damage)
    assert send_pending(tmp_path, uri)["pending"] == 0
    assert query(uri, "select count(*) from metrics") == query(uri, "select count(*) from runs") == [(1,)]


@pytest.mark.parametrize("name", ["run #1", "50% done", "what?x=1", "feature%2Fnet", "été", "a=b(1)~"])
def test_the_database_is_in_its_folder_whatever_that_is_called(tmp_path, empty_database, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "mlflow.db").write_bytes(empty_database.read_bytes())
    tracker = Tracker(folder / "experiments" / "one", f"sqlite:///{folder}/mlflow.db")
    tracker.start("one", {}, {})
    tracker.text("x", "note.txt")
    assert tracker.finish()
    assert query(f"sqlite:///{folder}/mlflow.db", "select count(*) from runs") == [(1,)]
    assert [path.name for path in (folder / "mlartifacts").rglob("*.txt")] == ["note.txt"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_what_needs_no_escape_stays():
    assert mlflow_uri("sqlite:////a b/#1.db") == "sqlite:////a b/#1.db"
    assert mlflow_uri("http://host/?a=%20") == "http://host/?a=%20"
    assert mlflow_uri("sqlite:////a?/%20") == "sqlite+pysqlite:////a%3F/%2520"


def test_mlflows_variables_for_other_programs_change_nothing(tmp_path: Path, uri: str, monkeypatch):
    for name in ("TRACKING_URI", "REGISTRY_URI", "RUN_ID", "EXPERIMENT_NAME", "EXPERIMENT_ID", "WORKSPACE"):
        monkeypatch.setenv(f"MLFLOW_{name}", "http://127.0.0.1:9/nowhere")
    for name, value in {"ENABLE_ASYNC_LOGGING": "true", "TRUNCATE_LONG_VALUES": "false"}.items():
        monkeypatch.setenv(f"MLFLOW_{name}", value)
    tracker = Tracker(tmp_path / "a", uri)
    tracker.start("ssc", {"long": "x" * 7000}, {})
    tracker.metrics({"loss": 1.0}, 0)
    assert tracker.finish()
    assert query(uri, "select count(*) from metrics") == [(1,)]
    assert query(uri, "select name from experiments where experiment_id > 0") == [("paredown",)]
