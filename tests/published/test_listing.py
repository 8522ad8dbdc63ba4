"""The list of rows in docs/reproduction.md is what the script writes, and no row is missing from it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from paredown.published import load
from paredown.published.listing import answer, listing, written_into

PAGE = Path(__file__).parents[2] / "docs" / "reproduction.md"


def test_the_page_is_what_the_script_writes() -> None:
    assert PAGE.read_text() == written_into(PAGE.read_text()), "run python scripts/reproduction.py"
    assert listing() in PAGE.read_text()


def test_every_row_is_in_one_line() -> None:
    found: Counter[str] = Counter()
    for line in listing().splitlines():
        if cells := re.match(r"\| `(\S+)` \| ([^|]+) \|", line):
            for part in cells[2].split(", "):
                first, _, last = part.partition(" to ")
                found.update(f"{cells[1]}/{number}" for number in range(int(first), int(last or first) + 1))
    assert found == Counter(load()["id"])


def test_answers() -> None:
    rows = {row["id"]: dict(row) for _, row in load().iterrows()}
    assert answer(rows["ssc/table1/69"]) == "as printed"  # GraSP's protocol, a dense network
    assert answer(rows["ssc/table1/125"]).startswith("differs: g and p are not printed")
    assert answer(rows["svd_training/table4/2"]) == "as printed"
    assert "the text says SGD" in answer(rows["svd_training/table3/11"])
    assert answer(rows["svd_training/table3/76"]).endswith("bottleneck blocks, not the paper's namesake")
    assert "fractions of filters" in answer(rows["svd_training/table6/9"])
    assert "rates are not printed" in answer(rows["svd_training/table6/17"])
    assert "rates are not printed" not in answer(rows["svd_training/table6/13"])
    assert "another width" in answer(rows["svd_training/table8/10"])
    assert answer(rows["beta_lasso/table3/1"]) == "cannot be run: it holds counts, not results"
    assert answer(rows["svd_nas/tableS1/1"]) == "cannot be run: it holds search times, not results"
    assert answer(rows["svd_nas/tablemain/4"]) == "as printed"  # F-Group: its configuration is published
