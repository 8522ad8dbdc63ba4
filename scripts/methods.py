"""Writes the comparison of methods, from the heads of their cards, into docs/methods/README.md."""

import sys
from pathlib import Path

from paredown.cli.comparison import missing, written_into
from paredown.core.requests import MISTAKE, end, exit_codes

PAGE = Path(__file__).parents[1] / "docs" / "methods" / "README.md"

if __name__ == "__main__":
    if sys.argv[1:]:
        end(f"scripts/methods.py takes no words, got {sys.argv[1]!r}: it writes {PAGE}", MISTAKE)
    if lines := missing():
        end("; ".join(lines), MISTAKE)
    with exit_codes():
        PAGE.write_text(written_into(PAGE.read_text()))
