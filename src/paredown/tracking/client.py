"""Connections to an MLflow store: accepted URIs, short timeouts, and safe creation of a local database."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from paredown.core.errors import UserError, printable
from paredown.core.files import typed_path
from paredown.tracking.view import save_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

PAGE = 1000  # runs a request
SQLITE, ESCAPED = "sqlite:///", "sqlite+pysqlite:///"
ACCEPTED = "http://HOST:PORT of an MLflow server, sqlite:///PATH of a local database, or off"

# An outage of the server must delay training by seconds, not by MLflow's default of minutes. Existing values stay:
# these, and what MLflow needs to reach a server (credentials, certificates), are all of its variables that count.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
# Otherwise one long value would hold up all records, and records would count as sent before they are.
ALWAYS = {"MLFLOW_TRUNCATE_LONG_VALUES": "true", "MLFLOW_ENABLE_ASYNC_LOGGING": "false"}


def check_uri(uri: str | None) -> str | None:
    """Return `uri` with an absolute SQLite path, or None for None and 'off'. Raise UserError if it is malformed."""
    if uri is None or uri == "off":
        return None
    if uri.startswith(SQLITE) and len(uri) > len(SQLITE):
        return SQLITE + str(typed_path(uri.removeprefix(SQLITE)).absolute())
    try:
        parts = urlsplit(uri)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is not a number, or a bracket is unbalanced
        valid = False
    if not valid:
        raise UserError(f"tracking.uri={uri} is no tracking URI: give {ACCEPTED}")
    return uri.rstrip("/")


def public(uri: str) -> str:
    """Return `uri` without user name and password, for messages, files and links."""
    parts = urlsplit(uri)
    return uri if "@" not in parts.netloc else urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def connect(uri: str) -> MlflowClient:
    """Return a client for `uri` (from `check_uri`). A SQLite database is created or migrated by one process at a time,
    since concurrent migrations fail. Raise UserError for a database of another MLflow version."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ |= ALWAYS
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("mlflow.exceptions").setLevel(logging.ERROR)  # its warnings quote the server raw
    logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)  # a full disk is our line, not its traceback
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if not uri.startswith(SQLITE):
        return MlflowClient(uri, registry_uri=uri)
    from filelock import FileLock

    database = database_path(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock", timeout=120):
        _require_writable(database)
        return _open_database(uri)


def get_experiment(client: MlflowClient, uri: str, name: str) -> Experiment:
    """Return the experiment `name` with its saved view, created or restored from MLflow's trash if necessary."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            created = client.create_experiment(name, artifact_location=_artifact_location(uri))
            experiment = client.get_experiment(created)
        except MlflowException as error:
            experiment = client.get_experiment_by_name(name)  # another process may have created it
            if experiment is None:
                raise error from None
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    save_view(client, experiment)
    return experiment


def every_run(client: MlflowClient, experiments: list[str], text: str) -> Iterator[Run]:
    """Iterate over the runs of the `experiments` (ids) that MLflow's search `text` finds, page by page."""
    token = None
    while True:
        page = client.search_runs(experiments, text, max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


@contextmanager
def outages_as(kind: type[Exception], what: str = "") -> Iterator[None]:
    """Convert errors of the tracking store inside the `with` block to `kind`, with message `what` and the reason.

    Of any class but UserError: what MLflow raises over an answer that is no MLflow's depends on the answer.
    """
    try:
        yield
    except (UserError, kind):
        raise
    except Exception as error:
        raise kind(what + _reason(error)) from error


def mlflow_uri(uri: str) -> str:
    """Return `uri` as SQLAlchemy reads it, where ? begins a query and % an escape. With the driver in the scheme MLflow
    makes no folder of the escaped name."""
    path = uri.removeprefix(SQLITE)
    return ESCAPED + quote(path) if uri.startswith(SQLITE) and {"?", "%"} & set(path) else uri


def database_path(uri: str) -> Path:
    """Return the file of a SQLite URI."""
    return Path(uri.removeprefix(SQLITE))


def _artifact_location(uri: str) -> str | None:
    # absolute, because MLflow resolves a relative one against the reader's working directory
    return (database_path(uri).parent / "mlartifacts").as_uri() if uri.startswith(SQLITE) else None


def _require_writable(database: Path) -> None:
    """Raise OSError where SQLite cannot write `database`: MLflow would try again for two minutes."""
    try:
        with closing(sqlite3.connect(database, timeout=30)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()
    except sqlite3.DatabaseError as error:
        raise OSError(f"{database}: {error}") from error


def _open_database(uri: str) -> MlflowClient:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient(mlflow_uri(uri), registry_uri=mlflow_uri(uri))
    except MlflowException as error:
        if "out-of-date database schema" not in str(error):
            raise
        remedy = f"run `mlflow db upgrade {uri}`, or move it away and fill a new one with `make sync`"
        raise UserError(f"{database_path(uri)} was made by another version of MLflow: {remedy}") from error


def _reason(error: Exception) -> str:
    """Return the innermost cause in one short line; MLflow nests three exceptions in 600 characters."""
    while (cause := error.__cause__ or error.__context__) is not None and isinstance(cause, Exception):
        error = cause
    return printable(f"{type(error).__name__}: {' '.join(str(error).split())}"[:160])
