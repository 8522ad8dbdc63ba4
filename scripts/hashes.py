"""Writes docker/requirements.txt: what the image installs, each at one version and with the SHA-256 of its file.

python scripts/hashes.py      on the image's Python and platform: CPython 3.11 on x86-64 Linux

pip resolves the dependencies of pyproject.toml and those of the image within constraints.txt and says which files it
would install; nothing is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docker" / "requirements.txt"
IMAGE = ("psycopg2-binary>=2.9,<3", "mlflow[auth]", "setuptools>=77")  # MLflow's server, and what builds paredown
HEAD = """# What the image installs, by scripts/hashes.py: CPython 3.11 on x86-64 Linux. Do not edit: change
# constraints.txt and run it again.
"""


def requirements() -> list[str]:
    """Return the requirements of paredown and of the image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *IMAGE]


def resolved(wanted: Iterable[str]) -> list[Mapping[str, Any]]:
    """Return pip's report of the files that it would install for `wanted`, within constraints.txt."""
    with tempfile.TemporaryDirectory() as place:
        asked, report = Path(place) / "asked.txt", Path(place) / "report.json"
        asked.write_text("\n".join(wanted))
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        command += ["--disable-pip-version-check", "-c", str(ROOT / "constraints.txt"), "-r", str(asked)]
        subprocess.run([*command, "--report", str(report)], check=True)
        found: list[Mapping[str, Any]] = json.loads(report.read_text())["install"]
        return found


def lines(report: Iterable[Mapping[str, Any]]) -> str:
    """Return a line `name==version --hash=sha256:...` for each file of `report`, by name. Raise KeyError where a file
    has no hash."""
    found = {}
    for item in report:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
        found[name.lower()] = f"{name}=={version} --hash=sha256:{sha256}"
    return "".join(f"{found[name]}\n" for name in sorted(found))


def main() -> None:
    """Write the file."""
    TARGET.write_text(HEAD + lines(resolved(requirements())))


if __name__ == "__main__":
    main()
