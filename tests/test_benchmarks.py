"""benchmarks/: its table names every script, and `make benchmarks` those that the table calls quick."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py"))
ROWS = re.findall(r"^\| `(\w+\.py)([^`]*)`([^|]*)\|(.*)\|$", (ROOT / "benchmarks" / "README.md").read_text(), re.M)


def test_the_table_has_a_row_of_every_script_and_of_nothing_else() -> None:
    assert sorted(name for name, *_ in ROWS) == SCRIPTS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_says_what_is_measured_against_what_and_how_long_it_takes(row: tuple[str, str, str, str]) -> None:
    measured, against, takes, _ = (cell.strip() for cell in row[3].split("|"))
    assert measured and (row[0] == "steps.py" or (against and takes))


def test_make_runs_those_that_are_quick() -> None:
    words = re.search(r"^QUICK := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert words is not None
    quick = {name.removesuffix(".py") for name, _, mark, _ in ROWS if "(quick)" in mark}
    assert quick == {*words[1].split()}
    shown = subprocess.run(["make", "-n", "benchmarks"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"benchmarks/{name}.py" in shown for name in quick)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "steps.py"])
def test_every_script_starts_and_tells_its_options(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / name), "--help"], capture_output=True, text=True, check=True
    )
    assert ended.stdout.startswith("usage: ")
