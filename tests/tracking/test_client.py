from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from stores import query

from paredown.core.errors import UserError
from paredown.tracking.client import check_uri, connect, get_experiment, public
from paredown.tracking.view import KEY, TAG

VIEW = TAG + KEY
SOURCE = Path(__file__).parents[2] / "src"
EXPERIMENT = """
import sys
from pathlib import Path
from paredown.tracking.tracker import Tracker
output, index = Path(sys.argv[1]), sys.argv[2]
tracker = Tracker(output / index, f"sqlite:///{output}/mlflow.db")
tracker.start(index, {}, {})
tracker.metrics({"final/top1": float(index)}, 0)
assert tracker.finish(), "not sent"
"""


@pytest.mark.parametrize(
    "uri",
    ["localhost:5000", "htp://localhost", "http://", "http://host:port", "http://host:99999", "sqlite://", "sqlite:///",
     "file:///tmp/mlruns", "mlruns", "", "postgresql://host/db"],
)  # fmt: skip
def test_malformed_uri_says_what_is_right(uri):
    with pytest.raises(UserError, match=r"give http://HOST:PORT .* sqlite:///PATH .* off"):
        check_uri(uri)


def test_taken_uris(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert check_uri("off") is check_uri(None) is None
    assert check_uri("https://host/mlflow/") == "https://host/mlflow"
    assert check_uri("sqlite:///outputs/mlflow.db") == f"sqlite:///{tmp_path}/outputs/mlflow.db"


def test_password_is_not_shown():
    assert public("https://me:secret@host:1/x") == "https://host:1/x"
    assert public("sqlite:////a@b/c.db") == "sqlite:////a@b/c.db"


def test_view_is_written_once_and_the_user_may_change_it(uri):
    client = connect(uri)
    experiment = get_experiment(client, uri, "paredown")
    client.set_experiment_tag(experiment.experiment_id, VIEW, "changed by the user")
    assert get_experiment(client, uri, "paredown").tags == experiment.tags | {VIEW: "changed by the user"}


def test_deleted_experiment_comes_back(uri):
    client = connect(uri)
    first = get_experiment(client, uri, "paredown").experiment_id
    client.delete_experiment(first)
    assert get_experiment(client, uri, "paredown").experiment_id == first
    assert client.get_experiment(first).lifecycle_stage == "active"


def test_file_that_is_no_database_is_left_alone(tmp_path, caplog):
    from paredown.tracking.tracker import Tracker

    (tmp_path / "mlflow.db").write_text("my diary, not a database" * 100)
    tracker = Tracker(tmp_path / "experiment", f"sqlite:///{tmp_path}/mlflow.db")
    tracker.start("x", {}, {})
    assert "file is not a database" in caplog.text
    assert (tmp_path / "mlflow.db").read_text().startswith("my diary")


def test_database_of_another_mlflow_says_what_to_do(uri):
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        database.execute("update alembic_version set version_num = '1971f2d9a75b'")
    with pytest.raises(UserError, match=r"another version of MLflow: run `mlflow db upgrade sqlite:///.*make sync"):
        connect(uri)


@pytest.mark.slow
def test_eight_processes_on_an_empty_folder(tmp_path):
    command = [sys.executable, "-c", EXPERIMENT, str(tmp_path / "out put")]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    processes = [
        subprocess.Popen([*command, str(index)], env=environment, stderr=subprocess.PIPE) for index in range(8)
    ]
    errors = [process.communicate(timeout=200)[1].decode() for process in processes]
    assert errors == [""] * 8
    uri = f"sqlite:///{tmp_path}/out put/mlflow.db"
    assert query(uri, "select value from metrics order by value") == [(float(index),) for index in range(8)]
    assert query(uri, "select name from experiments where name != 'Default'") == [("paredown",)]
    assert query(uri, "select distinct status from runs") == [("FINISHED",)]
