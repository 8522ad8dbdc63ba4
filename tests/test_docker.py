"""The deployment as far as it can be checked without Docker: the compose file, the image, and the server's script."""

from __future__ import annotations

import configparser
import importlib.util
import re
import stat
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from sqlalchemy.engine import make_url

from paredown.sweep.spec import load

FOLDER = Path(__file__).parents[1] / "docker"
ROOT = FOLDER.parent
TEXT = (FOLDER / "compose.yaml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]
IMAGE = (FOLDER / "Dockerfile").read_text()
PINNED = [line for line in (FOLDER / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
SECRET = "a%b@c/d:e#f$g h%(x)s{z}\"'\\é"


def script(path: Path) -> ModuleType:
    """The script `path` as a module."""
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def serve() -> ModuleType:
    return script(FOLDER / "serve.py")


def test_every_secret_is_asked_for_and_named_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+)[:}]", TEXT))
    lines = (FOLDER / "example.env").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    assert asked <= set(example)
    secrets = {name for name in asked if re.search("PASSWORD|SECRET|TOKEN", name)}
    assert len(secrets) == 5 and all(not example[name] for name in secrets)
    assert all(f"${{{name}:?" in TEXT for name in secrets)  # refused where it is not set


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_watched_and_listens_to_nobody_outside(name) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"] and service["restart"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_privileges_and_bounded_memory(name) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"] and "cap_add" not in service and "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"] and service["pids_limit"] > 0
    assert re.fullmatch(r"\$\{\w+_MEMORY:-\d+g\}", service["mem_limit"])
    assert service["image"] == "paredown" or service["user"] not in ("root", "0")


def test_only_mlflow_reaches_the_database() -> None:
    assert {name for name in SERVICES if "database" in SERVICES[name]["networks"]} == {"mlflow", "postgres"}
    assert SERVICES["postgres"]["networks"] == ["database"]
    assert yaml.safe_load(TEXT)["networks"]["database"] == {"internal": True}


def test_the_administrator_s_password_is_the_server_s_alone() -> None:
    holding = {name: " ".join(map(str, service["environment"].values())) for name, service in SERVICES.items()}
    assert {name for name, values in holding.items() if "MLFLOW_ADMIN_PASSWORD" in values} == {"mlflow"}
    assert {name for name, values in holding.items() if "{MLFLOW_PASSWORD" in values} == {"head", "mlflow"}
    assert {name for name, values in holding.items() if "POSTGRES_PASSWORD" in values} == {"mlflow", "postgres"}
    assert "MLFLOW" not in holding["worker"] and not [
        name for name in SERVICES["worker"]["environment"] if "MLF" in name
    ]
    assert "env_file" not in TEXT


@pytest.mark.parametrize("name", ["head", "worker"])
def test_ray_asks_for_a_token(name) -> None:
    assert SERVICES[name]["environment"]["RAY_AUTH_MODE"] == "token"
    assert "--disable-usage-stats" in SERVICES[name]["command"]


def test_base_images_are_exact_versions_and_take_a_digest() -> None:
    assert re.search(r"^ARG PYTHON=3\.11\.\d+-slim-\w+$", IMAGE, re.MULTILINE)
    assert re.search(r"^ARG PYTHON_DIGEST=$", IMAGE, re.MULTILINE)
    assert "FROM python:${PYTHON}${PYTHON_DIGEST:+@${PYTHON_DIGEST}}" in IMAGE and IMAGE.count("FROM ") == 1
    assert SERVICES["head"]["build"]["args"] == {"PYTHON_DIGEST": "${PYTHON_DIGEST:-}"}
    assert re.fullmatch(
        r"postgres:15\.\d+-\w+\$\{POSTGRES_DIGEST:\+@\$\{POSTGRES_DIGEST\}\}", SERVICES["postgres"]["image"]
    )


def test_the_image_installs_files_by_their_hashes_alone() -> None:
    installs = re.findall(r"pip install ([^&]*)", IMAGE.replace("\\\n", ""))
    assert len(installs) == 3 and "--require-hashes -r build.txt" in installs[0]
    assert re.search(r"--require-hashes\s+-r requirements.txt", installs[1]) and "--no-build-isolation" in installs[1]
    assert "--only-binary :all: --no-binary antlr4-python3-runtime" in installs[1]
    assert installs[2].startswith("--compile --no-deps --no-build-isolation -e .\n")
    assert [line for line in PINNED if line.startswith("setuptools==")]
    assert "apt" not in IMAGE and "curl" not in IMAGE
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+ --hash=sha256:[0-9a-f]{64}", line) for line in PINNED)


def test_the_hashes_are_of_the_constrained_versions_and_of_every_dependency() -> None:
    pinned = dict(line.split(" ")[0].split("==") for line in PINNED)
    pinned = {canonicalize_name(name): version for name, version in pinned.items()}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    bounds = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    bounds = {canonicalize_name(name): version for name, version in bounds.items()}
    assert not {name: version for name, version in pinned.items() if bounds.get(name, version) != version}
    for line in script(ROOT / "scripts" / "hashes.py").requirements():
        wanted = Requirement(line)
        assert wanted.specifier.contains(pinned[canonicalize_name(wanted.name)], prereleases=True), line
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def test_a_report_of_pip_becomes_lines_of_hashes() -> None:
    hashes = script(ROOT / "scripts" / "hashes.py")
    item = {"metadata": {"name": "B", "version": "2"}, "download_info": {"archive_info": {"hashes": {"sha256": "1f"}}}}
    other = {**item, "metadata": {"name": "a", "version": "1"}}
    assert hashes.lines([item, other]) == "a==1 --hash=sha256:1f\nB==2 --hash=sha256:1f\n"
    with pytest.raises(KeyError):
        hashes.lines([{**item, "download_info": {"archive_info": {"hashes": {}}}}])


def test_a_password_of_any_characters_reaches_the_databases(serve, tmp_path) -> None:
    environment = {"POSTGRES_PASSWORD": SECRET}
    serve.prepare(environment, tmp_path)
    assert make_url(environment["MLFLOW_BACKEND_STORE_URI"]).password == SECRET
    found = configparser.ConfigParser()  # as MLflow reads it
    found.read(environment["MLFLOW_AUTH_CONFIG_PATH"])
    url = make_url(found["mlflow"]["database_uri"])
    assert (url.password, url.host, url.port, url.database) == (SECRET, "postgres", 5432, "mlflow_auth")
    assert found["mlflow"]["default_permission"] == "NO_PERMISSIONS" and "password" not in found["mlflow"]
    assert stat.S_IMODE(Path(environment["MLFLOW_AUTH_CONFIG_PATH"]).stat().st_mode) == 0o600
    assert SECRET not in " ".join(serve.command(environment)) and "postgresql" not in " ".join(
        serve.command(environment)
    )


@pytest.mark.parametrize("name", ["POSTGRES_PASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_USER", "MLFLOW_PASSWORD"])
@pytest.mark.parametrize("value", ["", "a\nadmin_password = mine", "a\x00", "\x1b[31m"])
def test_a_secret_that_is_missing_or_has_lines_is_said_at_once(serve, name, value) -> None:
    whole = dict.fromkeys(serve.SECRETS, "x") | {"MLFLOW_USER": "somebody"}
    serve.check(whole)
    with pytest.raises(SystemExit, match=rf"^{name} is not .*change it in \.env$"):
        serve.check(whole | {name: value})


def test_the_one_who_records_is_not_the_administrator(serve) -> None:
    with pytest.raises(SystemExit, match="MLFLOW_USER is the administrator"):
        serve.check(dict.fromkeys(serve.SECRETS, "admin"))


def test_the_user_is_added_as_no_administrator_and_later_given_her_new_password(serve, monkeypatch) -> None:
    done: list[tuple[object, ...]] = []

    class Store:
        def init_db(self, address: str) -> None:
            done.append(("open", address))

        def has_user(self, name: str) -> bool:
            return ("create", name, False) in done

        def create_user(self, name: str, password: str, is_admin: bool) -> None:
            done.append(("create", name, is_admin))

        def update_user(self, name: str, password: str, is_admin: bool) -> None:
            done.append(("update", name, password, is_admin))

    module = ModuleType("mlflow.server.auth.sqlalchemy_store")
    module.SqlAlchemyStore = Store  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow.server.auth", ModuleType("mlflow.server.auth"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    serve.add_user("a", "her", "old")
    serve.add_user("a", "her", "new")
    assert done == [("open", "a"), ("create", "her", False), ("open", "a"), ("update", "her", "new", False)]


def test_the_command_of_the_header_records_on_the_server_of_the_file(serve) -> None:
    (command,) = re.findall(r"^#.* exec head python src/sweep.py (.+)$", TEXT, re.MULTILINE)
    words = [word for word in command.split() if not word.startswith("sweep=")]
    sweep = load([f"sweep={ROOT / 'sweeps' / 'svd_training_resnet20_spatial.yaml'}", *words])
    assert sweep.cluster.kind == "ray"
    (uri,) = (word.removeprefix("tracking.uri=") for word in sweep.typed if word.startswith("tracking.uri="))
    host, port = re.fullmatch(r"http://(\w+):(\d+)", uri).groups()
    assert SERVICES[host]["command"] == "python docker-serve.py"
    assert "./serve.py:/paredown/docker-serve.py:ro" in SERVICES[host]["volumes"]
    assert f"127.0.0.1:{port}:{port}" in SERVICES[host]["ports"]
    server = serve.command({})
    assert server[server.index("--port") + 1] == port and f"{host}:*" in server[-1]  # an allowed host


def test_the_server_hands_out_artifacts_and_may_write_every_volume(serve) -> None:
    words = serve.command({})
    assert "--serve-artifacts" in words and words[words.index("--artifacts-destination") + 1] == "/artifacts"
    (made,), (owned,) = (re.findall(rf"{word} ((?:/\w+ ?)+)", IMAGE) for word in ("mkdir", "chown paredown"))
    volumes = {
        volume.split(":")[1]
        for service in SERVICES.values()
        if service["image"] == "paredown"
        for volume in service.get("volumes", [])
        if not volume.startswith((".", "$"))
    }
    assert volumes == set(made.split()) == set(owned.split()) == {"/outputs", "/artifacts"}
    assert IMAGE.rstrip().endswith("USER paredown")
