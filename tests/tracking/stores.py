"""Records as a training makes them, and functions that read a store without MLflow."""

from __future__ import annotations

import sqlite3

from paredown.tracking.tracker import Tracker


def query(uri: str, sql: str) -> list[tuple]:
    """Return rows of the SQLite database, read without MLflow."""
    with sqlite3.connect(uri.removeprefix("sqlite:///")) as database:
        return database.execute(sql).fetchall()


def contents(uri: str) -> dict[str, list[tuple]]:
    """Return all records, sorted; equal contents mean that nothing is lost and nothing is there twice."""
    return {
        "runs": query(uri, "select name, status, lifecycle_stage from runs"),
        "metrics": query(uri, "select key, step, value, is_nan from metrics order by key, step, value"),
        "params": query(uri, "select key, value from params order by key"),
        "tags": query(uri, "select key, value from tags where key not like 'mlflow.%' order by key"),
    }


def record(tracker: Tracker, epochs: range) -> None:
    """Record two metrics per epoch and send at the end of each."""
    for epoch in epochs:
        tracker.metrics({"train/loss": 2 - epoch / 10, "val/top1": 50.0 + epoch}, epoch)
        tracker.send()


def expected(epochs: range) -> list[tuple]:
    """Return the rows that `record` must leave in `contents(...)["metrics"]`."""
    losses = [("train/loss", epoch, 2 - epoch / 10, 0) for epoch in epochs]
    return losses + [("val/top1", epoch, 50.0 + epoch, 0) for epoch in epochs]
