"""The compose file as far as it can be checked without Docker."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from paredown.sweep.file import load

FOLDER = Path(__file__).parents[1] / "docker"
ROOT = FOLDER.parent
TEXT = (FOLDER / "compose.yaml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]


def test_every_secret_is_asked_for_and_named_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+)[:}]", TEXT))
    example = dict(line.split("=", 1) for line in (FOLDER / "example.env").read_text().splitlines() if "=" in line[:30])
    assert asked <= set(example)
    secrets = {name for name in asked if "PASSWORD" in name or "SECRET" in name or "TOKEN" in name}
    assert len(secrets) == 4 and all(not example[name] for name in secrets)
    assert all(f"${{{name}:?" in TEXT for name in secrets)  # refused where it is not set


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_watched_and_listens_to_nobody_outside(name) -> None:
    service = SERVICES[name]
    assert service["networks"] == ["inside"] and service["healthcheck"]["test"] and service["restart"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", ["head", "worker"])
def test_ray_asks_for_a_token(name) -> None:
    assert SERVICES[name]["environment"]["RAY_AUTH_MODE"] == "token"
    assert "--disable-usage-stats" in SERVICES[name]["command"]


def test_the_command_of_the_header_records_on_the_server_of_the_file() -> None:
    (command,) = re.findall(r"^#.* exec head python src/sweep.py (.+)$", TEXT, re.MULTILINE)
    words = [word for word in command.split() if not word.startswith("sweep=")]
    sweep = load([f"sweep={ROOT / 'sweeps' / 'svd_training_resnet20_spatial.yaml'}", *words])
    assert sweep.cluster.kind == "ray"
    (uri,) = (word.removeprefix("tracking.uri=") for word in sweep.typed if word.startswith("tracking.uri="))
    host, port = re.fullmatch(r"http://(\w+):(\d+)", uri).groups()
    assert SERVICES[host]["command"] == "sh docker-mlflow.sh" and f"127.0.0.1:{port}:{port}" in SERVICES[host]["ports"]
    script = (FOLDER / "mlflow.sh").read_text()
    assert f"${{PORT:-{port}}}" in script and f"{host}:*" in script  # an allowed host


def test_the_server_hands_out_artifacts_and_may_write_every_volume() -> None:
    assert '--serve-artifacts --artifacts-destination "${ARTIFACTS:-/artifacts}"' in (FOLDER / "mlflow.sh").read_text()
    image = (FOLDER / "Dockerfile").read_text()
    (made,), (owned,) = (re.findall(rf"{word} ((?:/\w+ ?)+)", image) for word in ("mkdir", "chown paredown"))
    volumes = {
        volume.split(":")[1]
        for service in SERVICES.values()
        if service["image"] == "paredown"
        for volume in service["volumes"]
        if not volume.startswith((".", "$"))
    }
    assert volumes == set(made.split()) == set(owned.split()) == {"/outputs", "/artifacts"}
    assert image.rstrip().endswith("USER paredown")
