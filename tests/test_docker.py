"""The compose file as far as it can be checked without Docker."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

FOLDER = Path(__file__).parents[1] / "docker"
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
