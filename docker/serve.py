"""MLflow's server on PostgreSQL, with basic auth: its databases' addresses, its administrator and one plain user.

Passwords may hold any printable character. They reach the server by its environment and by a file that only this
container sees, never by the command line.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from urllib.parse import quote

RUNS, USERS = "mlflow", "mlflow_auth"  # databases
ADDRESS = "postgresql+psycopg2://mlflow:{password}@postgres:5432/{database}"
FUNCTION = "mlflow.server.auth:authenticate_request_basic_auth"
ADMIN = ("MLFLOW_AUTH_ADMIN_USERNAME", "MLFLOW_AUTH_ADMIN_PASSWORD")
SECRETS = ("POSTGRES_PASSWORD", *ADMIN, "MLFLOW_USER", "MLFLOW_PASSWORD")


def check(environment: Mapping[str, str]) -> None:
    """Exit with one line where a secret is missing or has a character that no file of settings can hold."""
    for name in SECRETS:
        value = environment.get(name, "")
        if not value or not value.isprintable():
            sys.exit(f"{name} is {'not set' if not value else 'not of printable characters'}: change it in .env")
    if environment["MLFLOW_USER"] == environment["MLFLOW_AUTH_ADMIN_USERNAME"]:
        sys.exit("MLFLOW_USER is the administrator, whose password the head would hold: give another name in .env")


def address(database: str, environment: Mapping[str, str]) -> str:
    """Return the SQLAlchemy address of a `database`, its password quoted: it may hold @ : / and %."""
    password = quote(environment["POSTGRES_PASSWORD"], safe="")
    return environment.get("ADDRESS", ADDRESS).format(password=password, database=database)


def settings(auth_address: str) -> str:
    """Return the contents of MLflow's file of settings for basic auth, where % is written twice."""
    values = {
        "default_permission": "NO_PERMISSIONS",
        "database_uri": auth_address,
        "authorization_function": FUNCTION,
    }
    return "[mlflow]\n" + "".join(f"{name} = {value.replace('%', '%%')}\n" for name, value in values.items())


def command(environment: Mapping[str, str]) -> list[str]:
    """Return the server's command. One worker: with more, every request costs 44 ms."""
    words = ["mlflow", "server", "--workers", "1", "--app-name", "basic-auth", "--serve-artifacts"]
    words += ["--host", environment.get("HOST", "0.0.0.0"), "--port", environment.get("PORT", "5000")]
    words += ["--artifacts-destination", environment.get("ARTIFACTS", "/artifacts")]
    return [*words, "--allowed-hosts", environment.get("ALLOWED_HOSTS", "localhost:*,127.0.0.1:*,mlflow:*")]


def prepare(environment: MutableMapping[str, str], folder: Path) -> None:
    """Write the settings into `folder` and name them, and the runs' database, in `environment`."""
    path = folder / "auth.ini"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(settings(address(USERS, environment)))
    environment["MLFLOW_AUTH_CONFIG_PATH"] = str(path)
    environment["MLFLOW_BACKEND_STORE_URI"] = address(RUNS, environment)


def add_user(auth_address: str, name: str, password: str) -> None:
    """Add the user `name`, who is no administrator, or give her the present `password`."""
    from mlflow.server.auth.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore()
    store.init_db(auth_address)
    if not store.has_user(name):
        store.create_user(name, password, is_admin=False)
    else:
        store.update_user(name, password=password, is_admin=False)


def main() -> None:
    """Become MLflow's server."""
    check(os.environ)
    prepare(os.environ, Path(tempfile.mkdtemp()))
    add_user(address(USERS, os.environ), os.environ["MLFLOW_USER"], os.environ["MLFLOW_PASSWORD"])
    words = command(os.environ)
    os.execvp(words[0], words)


if __name__ == "__main__":
    main()
