"""The example of CONTRIBUTING.md, run as its text says, in a copy of the project."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.S)
    assert len(found) == 1, language
    return found[0]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what the text adds files to, with the two files that it shows and the card it asks for."""
    for name in ("src", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    names = re.findall(r"`((?:src|conf)/[^`]+(?:random_pruning)\.(?:py|yaml))`", TEXT)
    assert [Path(name).suffix for name in names] == [".py", ".yaml"]
    for name, language in zip(names, ("python", "yaml"), strict=True):
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(block(language))
    return tmp_path


@pytest.mark.slow
def test_the_method_of_the_text_runs_and_meets_its_target(copy: Path) -> None:
    command = next(line.split() for line in TEXT.splitlines() if "method=random_pruning" in line)
    environment = os.environ | {"PYTHONPATH": str(copy / "src")}
    words = [*command[1:], "tracking=off", "latency.seconds=0.05"]
    run = subprocess.run(
        [sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert "95.00%" in run.stdout
    again = subprocess.run(
        [sys.executable, *words], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0 and "95.00%" in again.stdout
    refused = [*command[1:-2], "tracking=off"]  # without a target
    run = subprocess.run(
        [sys.executable, *refused], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 2 and "give sparsity=, not nothing" in run.stderr


def test_the_example_is_short_and_linted(tmp_path: Path) -> None:
    source = block("python")
    assert len(source.splitlines()) < 70
    path = tmp_path / "random_pruning.py"
    path.write_text(source)
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    for command in (["check", *settings], ["format", "--check", *settings]):
        found = subprocess.run(
            [sys.executable, "-m", "ruff", *command, str(path)], capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stdout
