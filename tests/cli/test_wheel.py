"""The wheel works in an empty environment, in another folder: its configuration, sweeps and cards are inside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILT = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves files behind."""
    pytest.importorskip("setuptools")
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "conf", "sweeps", "docs/methods"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in BUILT:
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", "dist", "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (found,) = (source / "dist").glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has the wheel, and by path what it depends on, but not the clone."""
    place = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])  # its own .pth files are not read
    command = [sys.executable, "-m", "pip", "--python", str(place), "install", "-q", "--no-deps", "--force-reinstall"]
    done = subprocess.run([*command, str(wheel)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return place / "bin"


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(installed / words[0]), *words[1:]]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_configuration_is_inside(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    for folder, name in (("conf", "conf"), ("sweeps", "sweeps"), ("docs/methods", "cards")):
        files = [
            path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*") if path.suffix in (".yaml", ".md")
        ]
        assert files and not [path for path in files if f"paredown/{name}/{path}" not in inside]
    assert any(name.endswith(".csv") for name in inside) and "paredown/runtime/kernel.cpp" in inside


@pytest.mark.slow
def test_the_issues_command_in_an_empty_environment(installed: Path, tmp_path: Path) -> None:
    where = run(installed, tmp_path, "python", "-c", "import paredown; print(paredown.__file__)")
    assert str(installed.parent) in where.stdout, where.stderr
    words = ["dataset=digits", "model=resnet20", "method=ssc", "sparsity=0.9", "debug=fast", "latency.seconds=0.05"]
    done = run(installed, tmp_path, "paredown", "run", *words, "trainer.progress=false")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "paredown run" in done.stdout and (tmp_path / "outputs" / "mlflow.db").is_file()
    assert run(installed, tmp_path, "paredown", "--version").stdout.startswith("paredown ")
    explained = run(installed, tmp_path, "paredown", "explain", "method=svd_training")
    assert "Published: Hoyer 0.001 to 0.1" in explained.stdout and "At a glance" in explained.stdout
    assert "readme_front" in run(installed, tmp_path, "paredown", "list", "sweeps").stdout
    ranks = [
        *words[:-1],
        "output=ranks",
        "trainer=ddp",
        "tracking=off",
        "trainer.progress=false",
        "latency.seconds=0.05",
    ]
    done = run(installed, tmp_path, "paredown", "run", *ranks)
    assert done.returncode == 0, done.stderr[-3000:]
