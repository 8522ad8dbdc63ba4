"""A real `src/sweep.py` in a subprocess, and functions that inspect its processes and its results."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
SWEEP = ROOT / "src" / "sweep.py"
TOKEN = "0123456789abcdef" * 4
EPOCHS = 40
LONG = [f"recipe.epochs={EPOCHS}", "trainer.checkpoint_seconds=0"]  # some seconds a fit, each epoch kept


def environment() -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT / "src"), str(Path(__file__).parent)])
    return os.environ | {"PYTHONPATH": paths, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "COLUMNS": "200"}


class Driver:
    """A running `src/sweep.py words`, which logs to a file next to the sweep file."""

    def __init__(self, words: list[str]) -> None:
        self.output = Path(next(word for word in words if word.startswith("output=")).removeprefix("output="))
        self.log = self.output.parent / f"log-{time.monotonic_ns()}"
        with self.log.open("w") as log:
            command = [sys.executable, str(SWEEP), *words]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment(), cwd=self.output.parent)

    def wait(self, code: int = 0, seconds: float = 900) -> str:
        """Wait until it ends with `code`; return what it printed."""
        try:
            found = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.terminate()  # or it would slow down every later test
            raise
        text = self.log.read_text()
        assert found == code, f"exit code {found}: {text}"
        return text

    def until(self, there: Callable[[], object], seconds: float = 240) -> None:
        """Wait until `there()` is true; fail if the sweep ends before."""
        end = time.monotonic() + seconds
        while not there():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    def send(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    def workers(self) -> list[int]:
        """Return the pids of the processes that run its trials."""
        return [pid for pid in descendants(self.process.pid) if b"ray::ImplicitFunc" in command_line(pid)]

    def results(self) -> list[Path]:
        return list(self.output.glob("experiments/*/result.json"))

    def checkpoints(self) -> list[Path]:
        return list(self.output.glob("store/*/*/last.safetensors"))


def runs(database: Path) -> dict[str, int]:
    """Count the MLflow runs by kind and status, as `sweep FINISHED`."""
    sql = (
        "select coalesce(k.value, '') || ' ' || r.status, count(*) from runs r "
        "left join tags k on k.run_uuid = r.run_uuid and k.key = 'kind' group by 1"
    )
    with sqlite3.connect(database) as connection:
        return dict(connection.execute(sql).fetchall())


def children(database: Path) -> int:
    with sqlite3.connect(database) as connection:
        return connection.execute("select count(*) from tags where key = 'mlflow.parentRunId'").fetchone()[0]


def starts(output: Path) -> list[int]:
    """Count how often each experiment was started."""
    journals = output.glob("experiments/*/tracking/journal.jsonl")
    return sorted(sum('"kind": "start"' in line for line in path.open()) for path in journals)


def fits(output: Path) -> int:
    """Count the fits in the store."""
    records = [json.loads(path.read_text()) for path in output.glob("store/*/*/stage.json")]
    return sum(bool(record["history"]) for record in records)


def epochs_recorded(database: Path) -> list[int]:
    """Return the number of epochs that MLflow has of each experiment, after checking that none is there twice."""
    with sqlite3.connect(database) as connection:
        rows = connection.execute(
            "select count(*), count(distinct step) from metrics where key = 'train/loss' group by run_uuid"
        ).fetchall()
    assert all(every == distinct for every, distinct in rows)
    return [every for every, _ in rows]


def descendants(pid: int) -> list[int]:
    """Return all descendant processes of `pid`."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = {int(child) for task in tasks for child in (task / "children").read_text().split()}
    except OSError:
        return []
    return [*children, *(grandchild for child in children for grandchild in descendants(child))]


def rank_processes(pid: int) -> list[int]:
    """Return the pids of the ranks that torchrun started below `pid`, by rank."""
    lines = {child: command_line(child) for child in descendants(pid)}
    ranks = [
        child
        for child, line in lines.items()
        if b"paredown.sweep.multi_process" in line and b"distributed.run" not in line
    ]
    return sorted(ranks, key=number_of)


def number_of(rank: int) -> int:
    """Return the rank of the process `rank`."""
    settings = Path(f"/proc/{rank}/environ").read_bytes().split(b"\0")
    return next(int(setting.removeprefix(b"RANK=")) for setting in settings if setting.startswith(b"RANK="))


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def alive(pid: int) -> bool:
    """Return whether `pid` runs and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
