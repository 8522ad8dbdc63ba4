"""The tutorials do what they say: the fenced commands of each page run in order, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from paredown.cli import choices, listing
from paredown.core.config import compose
from paredown.core.errors import UserError
from paredown.experiment.prepare import prepare

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
QUICK = {"first_run", "notebook"}  # the others are long
LONG_PAGES = [pytest.param(page, id=page.stem, marks=[] if page.stem in QUICK else pytest.mark.long) for page in PAGES]
LONGEST = 90  # lines of a page
INSTEAD = """#!/bin/sh
exec {command} "$@"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which `paredown` and `python` are this project's and this interpreter."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, words in {"paredown": " -m paredown", "python": ""}.items():  # a link would leave a virtual environment
        (folder / name).write_text(INSTEAD.format(command=sys.executable + words))
        (folder / name).chmod(0o755)
    paths = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    return os.environ | paths | {"OMP_NUM_THREADS": "1"}


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("page", LONG_PAGES)
def test_the_page_runs(page: Path, environment: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    python = "\n".join(text for language, text in blocks(page) if language == "python")
    shell = "\n".join(text for language, text in blocks(page) if language == "bash")
    (folder / "page.py").write_text(python)
    first = next(language for language, _ in blocks(page))
    parts = {"python": [sys.executable, "page.py"], "bash": ["bash", "-euo", "pipefail", "-c", shell]}
    for language in [first, *(other for other in parts if other != first)]:
        if python if language == "python" else shell:
            done = subprocess.run(
                parts[language], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{language}: {done.stdout[-1500:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_a_page_and_its_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text.startswith("# ") and len(text.splitlines()) <= LONGEST and blocks(page)
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert not [link for link in links if "://" not in link and not (page.parent / link).is_file()]


def test_the_readme_names_every_tutorial_and_no_command_is_indented() -> None:
    readme = (ROOT / "README.md").read_text()
    assert not [page.name for page in PAGES if f"({page.relative_to(ROOT)})" not in readme]
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert not re.findall(r"^ {4}(?:paredown|python) .*$", text, re.MULTILINE), page.name


FORKED = """from torch import nn


class Net(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16))
        self.second = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32))
        self.head = nn.Linear(32, num_classes)

    def forward(self, images):
        found = self.first(images).relu()
        if found.sum() > 1e9:
            found = found + 1
        return self.head(self.second(found).relu().mean((2, 3)))
"""


@pytest.mark.slow
def test_the_methods_that_are_said_to_need_fx_are_those_that_refuse(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(FORKED)
    words = ["model=custom", f"model.source={tmp_path / 'net.py'}:Net", "dataset=digits", f"output={tmp_path}"]
    text = (ROOT / "docs" / "tutorials" / "your_network.md").read_text()
    (said,) = re.findall(r"torch\.fx cannot follow (.*?)The other methods", text, re.DOTALL)
    asked = {"sparsity": 0.5, "speed_up": 1.5}
    refused = {"jaderberg"}  # see below
    for method in listing.names("methods"):
        quantity = next((name for name in choices.metadata(method)["targets"] if name in asked), None)
        target = [f"{quantity}={asked[quantity]}"] if quantity else []
        if "torch.fx cannot trace" in mistake([f"method={method}", *words, *target]):
            refused.add(method)
    assert set(re.findall(r"`(\w+)`", said)) == refused
    of_jaderberg = ["method=jaderberg", *words, "speed_up=1.5"]
    assert not mistake(of_jaderberg) and "torch.fx" in mistake([*of_jaderberg, "method.reconstruct=data"])


def mistake(words: list[str]) -> str:
    try:
        assert prepare(compose(words)).steps
    except UserError as error:
        return str(error)
    return ""


def test_the_site_has_every_tutorial_and_guide() -> None:
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    pages = re.findall(r"[\w/]+\.md", str(nav))
    assert len(pages) == len(set(pages)) and all((ROOT / "docs" / page).is_file() for page in pages)
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        from site_navigation import on_config
    finally:
        sys.path.remove(str(ROOT / "scripts"))
    whole = str(on_config({"docs_dir": str(ROOT / "docs"), "nav": nav})["nav"])
    every = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert every == set(re.findall(r"[\w/]+\.md", whole))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "-q", "--strict", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    text = (tmp_path / "index.html").read_text() + (tmp_path / "api.html").read_text()
    assert "compress" in text and not re.search(r"<(?:script|link)[^>]+(?:src|href)=\"https?://", text)
