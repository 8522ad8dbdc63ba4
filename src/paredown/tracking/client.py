"""Ways to an MLflow store: the URIs taken, a quiet and impatient client, a database made by one process."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from paredown.errors import UserError
from paredown.tracking.view import save_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment

SQLITE = "sqlite:///"
TAKEN = "http://HOST:PORT of an MLflow server, sqlite:///PATH of a local database, or off"

# A dead server must cost training seconds, not MLflow's default of minutes. What the user has set stays.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}


def check_uri(uri: str | None) -> str | None:
    """`uri` with a SQLite path made absolute; None for None and 'off'. Raises UserError for a bad one."""
    if uri is None or uri == "off":
        return None
    if uri.startswith(SQLITE) and len(uri) > len(SQLITE):
        return SQLITE + str(Path(uri.removeprefix(SQLITE)).absolute())
    try:
        parts = urlsplit(uri)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, an address with a stray bracket
        valid = False
    if not valid:
        raise UserError(f"tracking.uri={uri} is no tracking URI: give {TAKEN}")
    return uri.rstrip("/")


def public(uri: str) -> str:
    """`uri` without user name and password, fit for messages, files and links."""
    parts = urlsplit(uri)
    return uri if "@" not in parts.netloc else urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def connect(uri: str) -> MlflowClient:
    """A client for `uri` (as `check_uri` gives it). A SQLite database is made or filled up with
    missing tables by one process at a time: left to themselves, most of several that start together fail.
    Raises UserError for a database whose schema is another MLflow's."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if not uri.startswith(SQLITE):
        return MlflowClient(uri)
    from filelock import FileLock

    database = database_path(uri)
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock", timeout=120):
        return _open_database(uri)


def get_experiment(client: MlflowClient, uri: str, name: str) -> Experiment:
    """The experiment `name`, with its saved view; created, or taken back from MLflow's bin, where needed."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            created = client.create_experiment(name, artifact_location=_artifact_location(uri))
            experiment = client.get_experiment(created)
        except MlflowException as error:
            experiment = client.get_experiment_by_name(name)  # another process may have been quicker
            if experiment is None:
                raise error from None
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    save_view(client, experiment)
    return experiment


@contextmanager
def outages_as(kind: type[Exception], what: str = "") -> Iterator[None]:
    """Raise `kind`, with `what` and the reason, for what a store that is away or broken raises inside."""
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        if not isinstance(error, MlflowException | SQLAlchemyError | OSError):
            raise
        raise kind(what + _reason(error)) from error


def database_path(uri: str) -> Path:
    """The file behind a SQLite URI."""
    return Path(uri.removeprefix(SQLITE))


def _artifact_location(uri: str) -> str | None:
    # absolute, or MLflow would look below whatever folder a later reader happens to start in
    return (database_path(uri).parent / "mlartifacts").as_uri() if uri.startswith(SQLITE) else None


def _open_database(uri: str) -> MlflowClient:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        return MlflowClient(uri)
    except MlflowException as error:
        if "out-of-date database schema" not in str(error):
            raise
        way = f"run `mlflow db upgrade {uri}`, or move it away and fill a new one with `make sync`"
        raise UserError(f"{database_path(uri)} was made by another version of MLflow: {way}") from error


def _reason(error: Exception) -> str:
    """The innermost cause in one short line: MLflow's messages nest three exceptions in 600 characters."""
    while (cause := error.__cause__ or error.__context__) is not None and isinstance(cause, Exception):
        error = cause
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]
